"""Which noise level each chunk of a clip is trained at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import repeat
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.flow import NUM_TIMESTEPS, shift_sigma

from .seeding import generator_for


def stratified_uniform(count: int, generator: torch.Generator) -> Tensor:
    """`count` numbers, one from each of as many equal parts of [0, 1): uniform, with less noise in their mean."""
    return (torch.arange(count) + torch.rand(count, generator=generator)) / count


def draw_steps(rollout: RolloutConfig, chunks: int, seed: int, step: int, *, samples: Sequence[int]) -> Tensor:
    """For every sample and chunk the number of one of the student's steps, uniform; [len(samples), chunks].

    The first chunk may have steps of its own, see `RolloutConfig.first_chunk_steps`.
    """
    generators = [generator_for(seed, "steps", step, sample) for sample in samples]
    first = [torch.randint(len(rollout.first_chunk_timesteps), (1,), generator=each) for each in generators]
    rest = [torch.randint(len(rollout.timesteps), (chunks - 1,), generator=each) for each in generators]
    return torch.cat([torch.stack(first), torch.stack(rest)], dim=1)


def step_sigmas(rollout: RolloutConfig, steps: Tensor) -> Tensor:
    """The noise levels [B, chunks] of steps that `draw_steps` drew."""
    first = torch.tensor(rollout.first_chunk_timesteps)[steps[:, :1]]
    return torch.cat([first, torch.tensor(rollout.timesteps)[steps[:, 1:]]], dim=1) / NUM_TIMESTEPS


def spread_evenly(shift: float, chunks: int, seed: int, step: int, *, batch: int, samples: Sequence[int]) -> Tensor:
    """Shifted noise levels that cover (0, 1) evenly over all chunks of a step; [len(samples), chunks].

    batch: size of the global batch, which `samples` are indices into.
    """
    generator = generator_for(seed, "levels", step)
    sigma = shift_sigma(stratified_uniform(batch * chunks, generator), shift)
    return sigma[torch.randperm(batch * chunks, generator=generator)].reshape(batch, chunks)[list(samples)]


def per_frame(sigma: Tensor, chunk: int) -> Tensor:
    """[B, chunks] to [B, T]."""
    return repeat(sigma, "b k -> b (k t)", t=chunk)


def over_latents(sigma: Tensor) -> Tensor:
    """[B, T] so that it broadcasts against B C T H W."""
    return sigma[:, None, :, None, None]
