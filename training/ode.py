"""The teacher's probability-flow ODE, dx / dsigma = v (rectified flow, arXiv 2209.03003), in Euler steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise

import torch
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.flow import NUM_TIMESTEPS, shift_sigma, warp_steps
from sfpp_core.wan.transformer import WanTransformer

from .config import require

Velocity = Callable[[Tensor, float], Tensor]
"""The flow of latents at a noise level."""


def guided(flow: Callable[[Tensor], Tensor], text: Tensor, negative: Tensor, *, usual_guidance: float) -> Tensor:
    """Classifier-free guidance (arXiv 2207.12598) in the usual form, negative + usual_guidance * (text - negative).

    flow: of the same latents, told one text or the other. 1 asks for the conditional flow alone.
    """
    conditional = flow(text).float()
    if usual_guidance == 1:
        return conditional
    base = flow(negative).float()
    return base + usual_guidance * (conditional - base)


def teacher_velocity(network: WanTransformer, text: Tensor, negative: Tensor, *, usual_guidance: float) -> Velocity:
    """The guided flow of a bidirectional teacher, all frames at one noise level; text, negative: [B, L, text_dim]."""

    def velocity(x: Tensor, sigma: float) -> Tensor:
        timestep = torch.full((x.shape[0], x.shape[2]), sigma * NUM_TIMESTEPS, device=x.device)
        return guided(lambda told: network(x, timestep, told), text, negative, usual_guidance=usual_guidance)

    return velocity


def euler_states(velocity: Velocity, noise: Tensor, sigmas: Sequence[float]) -> Iterator[Tensor]:
    """The latents at each of the falling `sigmas`, the noise itself first."""
    x = noise
    yield x
    for sigma, following in pairwise(sigmas):
        x = x + (following - sigma) * velocity(x, sigma)
        yield x


def student_sigmas(rollout: RolloutConfig) -> tuple[float, ...]:
    """The noise levels that a student is ever asked at, falling."""
    timesteps = {*rollout.timesteps, *rollout.first_chunk_timesteps}
    return tuple(sorted((timestep / NUM_TIMESTEPS for timestep in timesteps), reverse=True))


def student_grid(rollout: RolloutConfig, steps: int) -> tuple[float, ...]:
    """steps + 1 noise levels from 1 to 0, evenly spaced before the student's shift, the student's own among them.

    Self-Forcing's pairs were made with the teacher's shift, 8, and used for a student of shift 5, whose steps are
    elsewhere; here the student's own levels are on the grid bit for bit.

    Raises:
        ConfigError: one of the student's steps would lie between two of the grid's.
    """
    sigmas = [shift_sigma(1 - place / steps, rollout.shift) for place in range(steps + 1)]
    own = {*rollout.steps, *rollout.first_chunk_steps}
    divisor = math.lcm(*((1 - Fraction(step / NUM_TIMESTEPS).limit_denominator(1000)).denominator for step in own))
    require(
        steps % divisor == 0,
        f"steps is {steps}, but the student's {', '.join(f'{step:g}' for step in sorted(own, reverse=True))} must be "
        f"among the ODE's; write a multiple of {divisor}, e.g. steps={-(-steps // divisor) * divisor}.",
    )
    for step, timestep in zip(own, warp_steps(own, rollout.shift), strict=True):
        sigmas[round((1 - step / NUM_TIMESTEPS) * steps)] = timestep / NUM_TIMESTEPS
    return tuple(sigmas)
