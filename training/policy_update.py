"""What an update of GRPO sends back through the student: the clipped objective of every transition of its films."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfpp_core.wan.transformer import WanTransformer

from .config import require
from .grpo import clipped_objective, divergence, even_weights, is_clipped
from .self_forcing.recording import Autocast
from .trajectory import Trajectory, Transition, replay


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyConfig:
    """How a batch of films is learnt from."""

    updates: int = 2
    """Optimiser steps on it. With 1 ratios are always 1, which is plain REINFORCE."""
    clip: float = 1e-3
    """How far the ratio of densities per latent value may leave 1 and still be followed."""
    kl: float = 0.0
    """Weight of the divergence from the starting student, in nats per latent value of every transition, whatever `even`
    makes of the objective."""
    transitions: float = 1.0
    """Share of a film's transitions that are trained on; which, is drawn anew for each batch."""
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
        """Which of so many transitions are trained on, rising; the same for all films of a batch."""
        count = max(1, round(self.transitions * transitions))
        return sorted(torch.randperm(transitions, generator=generator)[:count].tolist())


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Lesson:
    """Films that were made together, and what is to be learnt from them."""

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
    network: WanTransformer, lessons: Sequence[Lesson], config: PolicyConfig, *, autocast: Autocast
) -> dict[str, float]:
    """Add the gradient of minus the objective to the network's, averaged over films and chosen transitions.

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


def _weights(lesson: Lesson, config: PolicyConfig) -> list[float]:
    """Of the objectives of the chosen transitions; over all transitions of the film they average 1."""
    sigmas = [transition.next_sigma for transition in lesson.trajectory.transitions]
    weights = even_weights(sigmas) if config.even else [1.0] * len(sigmas)
    return [weights[index] for index in lesson.chosen]


def _transition_loss(
    lesson: Lesson, place: int, transition: Transition, x0: Tensor, config: PolicyConfig, *, weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss [B] of the transition at `place` among the chosen ones, and what is logged of each film [B].

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
