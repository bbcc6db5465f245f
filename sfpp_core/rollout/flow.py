"""Rectified flow and its noise: x_t = (1 - sigma) x0 + sigma noise, v = noise - x0, timestep = 1000 sigma.

Noise is a pure function of (seed, chunk, step): a seed gives the same video on every machine, in any pieces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

NUM_TIMESTEPS = 1000
"""The network's clock runs from 0 (clean) to this (noise)."""

SigmaT = TypeVar("SigmaT", float, Tensor)


def shift_sigma(sigma: SigmaT, shift: float) -> SigmaT:
    """Move noise levels in [0, 1] towards noise: shift * sigma / (1 + (shift - 1) * sigma).

    Esser et al. 2024 (arXiv 2403.03206), equation 23.
    """
    return shift * sigma / (1 + (shift - 1) * sigma)


def warp_steps(steps: Iterable[float], shift: float) -> tuple[float, ...]:
    """Timesteps (0..1000) after the shift: 1000, 750, 500, 250 become 1000, 937.5, 833.33, 625 at shift 5."""
    return tuple(NUM_TIMESTEPS * shift_sigma(step / NUM_TIMESTEPS, shift) for step in steps)


def add_noise(x0: Tensor, noise: Tensor, sigma: float | Tensor) -> Tensor:
    """Diffuse x0 to noise level sigma (a number, or a tensor that broadcasts against x0)."""
    return (1 - sigma) * x0 + sigma * noise


def flow_to_x0(x: Tensor, flow: Tensor, sigma: float | Tensor) -> Tensor:
    """The clean estimate x0 = x - sigma * v."""
    return x - sigma * flow


MAX_SEED = 2**64 - 1


class NoiseSource(Protocol):
    """The source of a rollout's noise."""

    def __call__(self, chunk: int, step: int, shape: tuple[int, ...]) -> Tensor:
        """Unit normal noise of `shape`, float32 on the CPU. Step 0 starts a chunk, step i > 0 re-noises for step i."""
        ...


def derived_seed(seed: int, *names: str | int) -> int:
    """Return a seed of its own for (seed, names), below 2^64."""
    words = "/".join(str(word) for word in (seed, *names))
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "little")


def generator_for(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU generator of its own for (seed, names), e.g. `generator_for(seed, "noise", step)`."""
    return torch.Generator().manual_seed(derived_seed(seed, *names))


@dataclass(frozen=True, slots=True)
class SeededNoise:
    """Independent noise for every (chunk, step), drawn on the CPU because generators differ between devices."""

    seed: int

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed is {self.seed}; it must lie between 0 and {MAX_SEED}.")

    def __call__(self, chunk: int, step: int, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator_for(self.seed, chunk, step), dtype=torch.float32)
