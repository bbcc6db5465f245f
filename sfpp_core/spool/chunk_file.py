"""One finished chunk as a safetensors file, whole or not there, and never believed without its checksum."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..files import Workplace
from .identity import tensor_digest

LATENTS = "latents"


class DamagedChunkError(ValueError):
    """A file that does not hold the chunk that it should; the message names the file and says why."""


def write_chunk(workplace: Workplace, name: str, key: str, latents: Tensor) -> None:
    """Write latents [B, C, T, H, W], float32, as the chunk `key`. Raises OSError if the disk does not take them."""
    described = {"key": key, "sha256": tensor_digest(latents)}
    with workplace.replacing(name) as temporary:
        temporary.write_bytes(save({LATENTS: latents.detach().to("cpu", torch.float32).contiguous()}, described))


def read_chunk(path: Path, key: str, shape: tuple[int, ...]) -> Tensor:
    """The latents of the chunk `key`, of `shape` [B, C, T, H, W].

    Raises DamagedChunkError if the file is cut, altered or another chunk's, FileNotFoundError if there is none.
    """
    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        with safe_open(path, "pt") as file:
            described = file.metadata() or {}
            # A copy: what is read is a view of the file, which could not be removed as long as the film is known.
            latents = file.get_tensor(LATENTS).clone()
    except (SafetensorError, OSError) as problem:
        raise DamagedChunkError(f"{path.name} cannot be read ({problem})") from problem
    if described.get("key") != key:
        raise DamagedChunkError(f"{path.name} holds another chunk")
    if tuple(latents.shape) != shape or latents.dtype != torch.float32:
        raise DamagedChunkError(f"{path.name} holds {latents.dtype} of shape {tuple(latents.shape)}, not {shape}")
    if described.get("sha256") != tensor_digest(latents):
        raise DamagedChunkError(f"{path.name} was altered: its checksum does not fit")
    return latents
