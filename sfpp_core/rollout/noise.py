"""Noise as a pure function of (seed, chunk, step): a seed gives the same film on every machine, in any pieces."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

MAX_SEED = 2**64 - 1


class NoiseSource(Protocol):
    """Where a rollout takes its noise from."""

    def __call__(self, chunk: int, step: int, shape: tuple[int, ...]) -> Tensor:
        """Unit normal noise of `shape`, float32 on the CPU. Step 0 starts a chunk, step i > 0 re-noises for step i."""
        ...


@dataclass(frozen=True, slots=True)
class SeededNoise:
    """Independent noise for every (chunk, step), drawn on the CPU because generators differ between devices."""

    seed: int

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed is {self.seed}; it must lie between 0 and {MAX_SEED}.")

    def __call__(self, chunk: int, step: int, shape: tuple[int, ...]) -> Tensor:
        digest = hashlib.blake2b(f"{self.seed}/{chunk}/{step}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
        return torch.randn(shape, generator=generator, dtype=torch.float32)
