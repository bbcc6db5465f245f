"""How every part of the family opens its file: weights, and the `sfpp` header that says what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..files import parse_json
from ..sealed_file import check_own_seal


def read_weights(path: Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights in float32 and the `sfpp` header of a file of this kind.

    Raises ValueError if the file is of another kind, none of ours, or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = parse_json((file.metadata() or {}).get("sfpp", "{}"))
            found = header.get("kind", "no sfpp weights")
            if found == kind:
                # The file is no dictionary: it has keys() and cannot be iterated.
                names = list(file.keys())
                check_own_seal(header, names, file.get_tensor)
                # Copies: what the file gives may be its own memory, which nobody should train on.
                return {name: file.get_tensor(name).to(torch.float32, copy=True) for name in names}, header
    except (SafetensorError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); use the original.") from error
    raise ValueError(f"{path} holds {found!r}; a file of kind {kind!r} is needed.")
