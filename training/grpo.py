"""Group relative policy optimisation of the few-step causal sampler, as pure functions.

The sampler is a policy: at a noisy chunk x_t it acts by what it re-noises to, x' ~ N((1 - s') x0(x_t), s'^2 I), where
s' is the noise level that it moves to (Self-Forcing++, arXiv 2510.02283, whose formula writes one index for both). The
first noise of a chunk and its last estimate are no actions: four steps give three transitions.

Two choices, both forced by numbers:

- Everything is said per latent value, as Flow-GRPO (arXiv 2505.05470) and DanceGRPO (arXiv 2505.07818) do. A chunk of
  the 1.3B model at 832x480 has 299,520 of them; a ratio of the plain densities is 0 or infinite after the smallest
  update. The log-density of the paper is that of each transition here times the number of values, summed over them.
- Ratios are per transition, not per film, and averaged: so a transition's gradient can be taken, and its graph dropped,
  before the next one is looked at, and memory does not grow with the film.

Axes: B films, G films of one prompt; chunks are [B, C, T, H, W].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import reduce
from torch import Tensor

SPREAD_FLOOR = 1e-4
"""Added to the spread of a group's rewards, as in Flow-GRPO: what differs by less is as good as equal."""


def log_prob(following: Tensor, x0: Tensor, sigma: float) -> Tensor:
    """Log-density per latent value of re-noising x0 to `following` at noise level `sigma`: [B], float64, nats.

    The mean over a chunk's values of log N(x'; (1 - sigma) x0, sigma^2). Differentiable in x0. In float64 because clip
    ranges are as small as 1e-5, which a float32 difference of two squares does not resolve.

    following, x0: [B, C, T, H, W]. sigma: in (0, 1).
    """
    deviation = (following.double() - (1 - sigma) * x0.double()) / sigma
    density = -0.5 * deviation.square() - math.log(sigma) - 0.5 * math.log(2 * math.pi)
    return reduce(density, "b c t h w -> b", "mean")


def divergence(x0: Tensor, reference: Tensor, sigma: float) -> Tensor:
    """KL divergence per latent value of re-noising x0 from re-noising `reference` to `sigma`: [B], float64, nats.

    Of two Gaussians of one variance: (1 - sigma)^2 |x0 - reference|^2 / (2 sigma^2), here a mean over values.
    """
    distance = (x0.double() - reference.double()) * ((1 - sigma) / sigma)
    return 0.5 * reduce(distance.square(), "b c t h w -> b", "mean")


def advantages(rewards: Tensor) -> Tensor:
    """How much better each film is than its group, in the group's standard deviations: [groups, G], float64.

    (r - mean) / (std + SPREAD_FLOOR) with the deviation of the population; a group of equal rewards gets zeros. None is
    larger than sqrt(G - 1), whatever the rewards, so that there is nothing to clip.

    rewards: [groups, G].
    """
    rewards = rewards.double()
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return centred / (rewards.std(dim=1, correction=0, keepdim=True) + SPREAD_FLOOR)


def clipped_objective(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """What an update maximises (PPO, arXiv 1707.06347, equation 7): min(r A, clamp(r, 1 - clip, 1 + clip) A), [B].

    ratio: new over old density of a transition, [B]. advantage: [B].
    """
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def is_clipped(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Whether a transition has gone as far as it may in the direction of its advantage, and has no gradient: [B]."""
    return ((advantage > 0) & (ratio > 1 + clip)) | ((advantage < 0) & (ratio < 1 - clip))


def even_weights(sigmas: Sequence[float]) -> list[float]:
    """A weight for each transition, by the noise level that it moves to; their mean is 1.

    The gradient of a log-density with respect to x0 goes with (1 - sigma) / sigma. With Wan's shift of 5 that is 0.07,
    0.2 and 0.6, so that the last of three transitions would be trained nine times as much as the first. Weights of
    sigma / (1 - sigma) take that out.
    """
    weights = [sigma / (1 - sigma) for sigma in sigmas]
    mean = sum(weights) / len(weights)
    return [weight / mean for weight in weights]
