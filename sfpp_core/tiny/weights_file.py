"""How every part of the family opens its file: weights, and the `sfpp` header that says what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..sealed_file import check_own_seal


def read_weights(path: Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights in float32 and the `sfpp` header of a file of this kind.

    Raises ValueError if the file is of another kind or none of ours.
    """
    with safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {}).get("sfpp", "{}"))
        if header.get("kind") != kind:
            raise ValueError(
                f"{path} holds {header.get('kind', 'no sfpp weights')!r}; a file of kind {kind!r} is needed."
            )
        # The file is no dictionary: it has keys() and cannot be iterated.
        try:
            check_own_seal(header, file.keys(), file.get_tensor)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        # Copies, because what it gives may be its own
        # memory, which nobody should train on.
        weights = {name: file.get_tensor(name).to(torch.float32, copy=True) for name in file.keys()}  # noqa: SIM118
        return weights, header
