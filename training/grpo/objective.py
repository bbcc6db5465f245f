"""Group relative policy optimisation of the few-step causal sampler, as pure functions.

The sampler is a policy: at a noisy chunk x_t it acts by what it re-noises to, x' ~ N((1 - s') x0(x_t), s'^2 I), where
s' is the noise level that it moves to (Self-Forcing++, arXiv 2510.02283, whose formula writes one index for both). The
first noise of a chunk and its last estimate are no actions: four steps give three transitions.

Two choices, both forced by numbers:

- Everything is said per latent value, as Flow-GRPO (arXiv 2505.05470) and DanceGRPO (arXiv 2505.07818) do. A chunk of
  the 1.3B model at 832x480 has 299,520 of them; a ratio of the plain densities is 0 or infinite after the smallest
  update. The log-density of the paper is that of each transition here times the number of values, summed over them.
- Ratios are per transition, not per video, and averaged: so a transition's gradient can be taken, and its graph
  dropped, before the next one is looked at, and memory does not grow with the video.

Axes: B videos, G videos of one prompt; chunks are [B, C, T, H, W].

An update sends the clipped objective of every transition of its videos back through the student. `record` listens to
a `Rollout`, so a recorded video is the video of its seed, bit for bit. `replay` asks a network, which may have learnt
since, about the same transitions: the noisy chunks are those of the record, and so is the clean past, but its keys and
values are the network's own. No gradient flows through the past, as in Self-Forcing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from einops import reduce
from torch import Tensor

from sfpp_core.rollout.flow import NUM_TIMESTEPS
from sfpp_core.rollout.rollout import CallProgress
from sfpp_core.rollout.state import RolloutState
from sfpp_core.wan.transformer import WanTransformer

from ..config import require
from ..self_forcing.rollouts import Autocast, RecordedStep, RolloutInputs, estimate

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
    """Return how much better each video is than its group, in the group's standard deviations: [groups, G], float64.

    (r - mean) / (std + SPREAD_FLOOR) with the deviation of the population; a group of equal rewards gets zeros. None is
    larger than sqrt(G - 1), whatever the rewards, so that there is nothing to clip.

    rewards: [groups, G].
    """
    rewards = rewards.double()
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return centred / (rewards.std(dim=1, correction=0, keepdim=True) + SPREAD_FLOOR)


def clipped_objective(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Return PPO's objective (arXiv 1707.06347, equation 7): min(r A, clamp(r, 1 - clip, 1 + clip) A), [B].

    ratio: new over old density of a transition, [B]. advantage: [B].
    """
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def is_clipped(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Return whether a transition has gone as far as its advantage may take it, and has no gradient: [B]."""
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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Transition:
    """One action of the sampler: a noisy chunk, and the less noisy one that was drawn after it."""

    chunk: int
    """Which chunk of the video, from 0."""
    step: RecordedStep
    """What the network was given; on the CPU."""
    following: Tensor
    """What its estimate was re-noised to, [B, C, T, H, W], float32 on the CPU."""
    next_sigma: float
    """The noise level of that, in (0, 1)."""
    log_prob: Tensor
    """[B], float64: log-density per latent value under the network that acted."""

    def log_prob_of(self, x0: Tensor) -> Tensor:
        """Return the same under a network that estimates x0, [B, C, T, H, W]; see grpo.log_prob."""
        return log_prob(self.following.to(x0.device), x0, self.next_sigma)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trajectory:
    """Videos that were made together."""

    videos: RolloutInputs
    made: RolloutState
    """With all of their clean chunks."""
    transitions: tuple[Transition, ...]
    """In the order in which they were made."""


class _Recorder:
    """Listens to a rollout and keeps the transitions of its chunks."""

    def __init__(self) -> None:
        self._before: CallProgress | None = None
        self.transitions: list[Transition] = []

    def on_call(self, progress: CallProgress) -> None:
        """Record a call, as an `OnCall`. A chunk's second call is given its first one's estimate, re-noised."""
        before, self._before = self._before, progress
        if before is None or before.x0 is None or before.chunk != progress.chunk:
            return
        sigma = progress.timestep / NUM_TIMESTEPS
        self.transitions.append(
            Transition(
                chunk=progress.chunk,
                step=RecordedStep(noised=before.noised.cpu(), timestep=before.timestep),
                following=progress.noised.cpu(),
                next_sigma=sigma,
                log_prob=log_prob(progress.noised, before.x0, sigma).cpu(),
            )
        )


@torch.no_grad()
def record(
    network: WanTransformer, beginning: RolloutState, videos: RolloutInputs, *, chunks: int, autocast: Autocast
) -> Trajectory:
    """Roll videos out from `beginning`, which has no chunk yet, as inference does."""
    recorder = _Recorder()
    rollout = videos.rollout(network, beginning, on_call=recorder.on_call)
    with autocast():
        for _ in rollout.run(chunks):
            pass
    return Trajectory(videos=videos, made=rollout.state, transitions=tuple(recorder.transitions))


def replay(
    network: WanTransformer, trajectory: Trajectory, chosen: Collection[int], *, autocast: Autocast
) -> Iterator[tuple[Transition, Tensor]]:
    """The chosen ones of a record's transitions, by index, each with x0 as the network estimates it; float32.

    Estimates have gradients if those are on. Back-propagate one before asking for the next, and one network call's
    graph is held at a time, however long the video. The weights must not change while a replay is under way.
    """
    videos, transitions = trajectory.videos, trajectory.transitions
    rollout = videos.rollout(network, replace(trajectory.made, chunks=()))
    last = max((transitions[index].chunk for index in chosen), default=-1)
    for number, chunk in enumerate(trajectory.made.chunks[: last + 1]):
        with torch.no_grad(), autocast():
            past = rollout.past()
        for index in sorted(index for index in chosen if transitions[index].chunk == number):
            with autocast():
                x0 = estimate(network, transitions[index].step, videos, past)
            yield transitions[index], x0
        rollout.append(chunk.latents)


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyConfig:
    """The settings of how a batch of videos is learnt from."""

    updates: int = 2
    """Optimiser steps on it. With 1 ratios are always 1, which is plain REINFORCE."""
    clip: float = 1e-3
    """How far the ratio of densities per latent value may leave 1 and still be followed."""
    kl: float = 0.0
    """Weight of the divergence from the starting student, in nats per latent value of every transition, whatever `even`
    makes of the objective."""
    transitions: float = 1.0
    """Share of a video's transitions that are trained on; which, is drawn again for each batch."""
    even: bool = True
    """Every transition's objective pulls alike; otherwise as its density has it, the last of three nine times as much
    as the first (see grpo.even_weights)."""

    def __post_init__(self) -> None:
        require(self.updates >= 1, f"policy.updates is {self.updates}; it must be at least 1.")
        require(0 < self.clip < 1, f"policy.clip is {self.clip:g}; it must lie between 0 and 1, e.g. 1e-3.")
        require(self.kl >= 0, f"policy.kl is {self.kl:g}; it must be 0 or more.")
        share = self.transitions
        require(0 < share <= 1, f"policy.transitions is {share:g}; it must be above 0 and at most 1.")

    def choose(self, transitions: int, generator: torch.Generator) -> list[int]:
        """Return which of so many transitions are trained on, rising; the same for all videos of a batch."""
        count = max(1, round(self.transitions * transitions))
        return sorted(torch.randperm(transitions, generator=generator)[:count].tolist())


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PolicyBatch:
    """Videos that were made together, and what is to be learnt from them."""

    trajectory: Trajectory
    advantage: Tensor
    """[B], float64, on the CPU; see grpo.advantages."""
    chosen: Sequence[int]
    """The transitions that are trained on, rising."""
    references: Sequence[Tensor]
    """x0 at each of them as the starting student estimates it, on the CPU; empty if no penalty asks for it."""


@torch.no_grad()
def reference_estimates(
    start: WanTransformer, trajectory: Trajectory, chosen: Sequence[int], *, autocast: Autocast
) -> list[Tensor]:
    """A lesson's `references`."""
    return [x0.cpu() for _, x0 in replay(start, trajectory, chosen, autocast=autocast)]


def backpropagate_lessons(
    network: WanTransformer, lessons: Sequence[PolicyBatch], config: PolicyConfig, *, autocast: Autocast
) -> dict[str, float]:
    """Add the gradient of minus the objective to the network's, averaged over videos and chosen transitions.

    Returns averages for the log: the objective, how far ratios are from 1, the share that is clipped, the divergence.
    """
    share = 1 / sum(len(lesson.advantage) * len(lesson.chosen) for lesson in lessons)
    figures: list[dict[str, Tensor]] = []
    for lesson in lessons:
        weights = _weights(lesson, config)
        estimates = replay(network, lesson.trajectory, lesson.chosen, autocast=autocast)
        for place, (transition, x0) in enumerate(estimates):
            loss, parts = _transition_loss(lesson, place, transition, x0, config, weight=weights[place])
            (loss.sum() * share).backward()
            figures.append(parts)
    return {name: torch.cat([parts[name] for parts in figures]).mean().item() for name in figures[0]}


def _weights(lesson: PolicyBatch, config: PolicyConfig) -> list[float]:
    """Return weights of the objectives of the chosen transitions; over all transitions of the video they average 1."""
    sigmas = [transition.next_sigma for transition in lesson.trajectory.transitions]
    weights = even_weights(sigmas) if config.even else [1.0] * len(sigmas)
    return [weights[index] for index in lesson.chosen]


def _transition_loss(
    lesson: PolicyBatch, place: int, transition: Transition, x0: Tensor, config: PolicyConfig, *, weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss [B] of the transition at `place` among the chosen ones, and what is logged of each video [B].

    weight: of the objective. The divergence has none: it is said in nats, alike for every transition.
    """
    advantage = lesson.advantage.to(x0.device)
    ratio = (transition.log_prob_of(x0) - transition.log_prob.to(x0.device)).exp()
    objective = clipped_objective(ratio, advantage, config.clip)
    parts = {
        "objective": objective.detach(),
        "ratio_deviation": (ratio.detach() - 1).abs(),
        "clipped": is_clipped(ratio.detach(), advantage, config.clip).double(),
    }
    if not lesson.references:
        return -weight * objective, parts
    apart = divergence(x0, lesson.references[place].to(x0.device), transition.next_sigma)
    return config.kl * apart - weight * objective, {**parts, "kl": apart.detach()}
