"""Safetensors files with a checksum over what they say and what they hold.

The format itself checks nothing: of a file with one flipped bit it reads other weights, or another video. A description
that carries a checksum is believed only if it fits; files of earlier versions carry none.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from .files import replacing

CHECKSUM: Final = "sha256"
"""Entry of a description."""
VERSION: Final = "version"
"""Entry of a description of weights or data; those of earlier versions have none."""
FORMAT_VERSION: Final = 2
"""The first that has a checksum."""


def write_sealed(path: Path, tensors: Mapping[str, Tensor], key: str, description: Mapping[str, Any]) -> None:
    """Write contiguous CPU tensors, and under one metadata key their description as JSON, whole or not at all.

    One key, because safetensors writes several in a random order, and equal content is to make equal files.

    Raises:
        OSError: the disk is full or the folder cannot be written; the message names the file.
    """
    sealed = {**description, CHECKSUM: checksum(description, tensors)}
    try:
        with replacing(path) as temporary:
            save_file(dict(tensors), temporary, metadata={key: json.dumps(sealed, sort_keys=True)})
    except SafetensorError as problem:
        error = OSError(f"{path} could not be written: {problem}. Is there space on that disk?")
        error.errno = system_error(problem)
        raise error from problem


def system_error(problem: SafetensorError) -> int | None:
    """Return the system's number of an error, which safetensors holds as text only; None if it is none of its."""
    told = _TOLD.search(str(problem))
    return int(told[1]) if told else None


_TOLD: Final = re.compile(r"\(os error (\d+)\)")


def checksum(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Digest a description, its checksum left out, and tensors by name, dtype, shape and bytes; hexadecimal."""
    said = {name: value for name, value in description.items() if name != CHECKSUM}
    return _digest(said, sorted(tensors), tensors.__getitem__)


def check_seal(
    description: Mapping[str, Any], names: Iterable[str], tensor: Callable[[str], Tensor], *, required: bool
) -> None:
    """Raise ValueError unless the description's checksum fits to it and to the tensors that a file has by these names.

    required: whether a description without one is refused, as one whose version says that it has one.
    """
    if CHECKSUM not in description:
        if required:
            raise ValueError("its checksum is missing")
        return
    said = {name: value for name, value in description.items() if name != CHECKSUM}
    if description[CHECKSUM] != _digest(said, sorted(names), tensor):
        raise ValueError("its checksum does not fit: the file was changed or damaged after it was written")


def check_own_seal(description: Mapping[str, Any], names: Iterable[str], tensor: Callable[[str], Tensor]) -> None:
    """Raise ValueError as `check_seal`, for weights and data, whose version tells whether there is a checksum."""
    version = description.get(VERSION, 1)
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise ValueError(f"its format is version {version!r}; this program reads up to {FORMAT_VERSION}: update it")
    check_seal(description, names, tensor, required=version == FORMAT_VERSION)


def _digest(description: Mapping[str, Any], names: list[str], tensor: Callable[[str], Tensor]) -> str:
    # As JSON gives it back: tuples are lists there.
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in names:
        value = tensor(name).detach().cpu().contiguous()
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(memoryview(value.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()
