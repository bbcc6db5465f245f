"""Films as a policy's trajectories: rolled out as inference does and recorded, then played again with gradients.

`record` listens to a `Rollout`, so a recorded film is the film of its seed, bit for bit. `replay` asks a network, which
may have learnt since, about the same transitions: the noisy chunks are those of the record, and so is the clean past,
but its keys and values are the network's own. No gradient flows through the past, as in Self-Forcing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sfpp_core.rollout.flow import NUM_TIMESTEPS
from sfpp_core.rollout.rollout import Progress
from sfpp_core.rollout.state import RolloutState
from sfpp_core.wan.transformer import WanTransformer

from .grpo import log_prob
from .self_forcing.recording import Autocast, Films, Step, estimate


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Transition:
    """One action of the sampler: a noisy chunk, and the less noisy one that was drawn after it."""

    chunk: int
    """Which chunk of the film, from 0."""
    step: Step
    """What the network was given; on the CPU."""
    following: Tensor
    """What its estimate was re-noised to, [B, C, T, H, W], float32 on the CPU."""
    next_sigma: float
    """The noise level of that, in (0, 1)."""
    log_prob: Tensor
    """[B], float64: log-density per latent value under the network that acted."""

    def log_prob_of(self, x0: Tensor) -> Tensor:
        """The same under a network that estimates x0, [B, C, T, H, W]; see grpo.log_prob."""
        return log_prob(self.following.to(x0.device), x0, self.next_sigma)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trajectory:
    """Films that were made together."""

    films: Films
    made: RolloutState
    """With all of their clean chunks."""
    transitions: tuple[Transition, ...]
    """In the order in which they were made."""


class _Recorder:
    """Listens to a rollout and keeps the transitions of its chunks."""

    def __init__(self) -> None:
        self._before: Progress | None = None
        self.transitions: list[Transition] = []

    def on_call(self, progress: Progress) -> None:
        """As an `OnCall`. What a chunk's second call is given is what its first one's estimate was re-noised to."""
        before, self._before = self._before, progress
        if before is None or before.x0 is None or before.chunk != progress.chunk:
            return
        sigma = progress.timestep / NUM_TIMESTEPS
        self.transitions.append(
            Transition(
                chunk=progress.chunk,
                step=Step(noised=before.noised.cpu(), timestep=before.timestep),
                following=progress.noised.cpu(),
                next_sigma=sigma,
                log_prob=log_prob(progress.noised, before.x0, sigma).cpu(),
            )
        )


@torch.no_grad()
def record(
    network: WanTransformer, beginning: RolloutState, films: Films, *, chunks: int, autocast: Autocast
) -> Trajectory:
    """Roll films out from `beginning`, which has no chunk yet, as inference does."""
    recorder = _Recorder()
    rollout = films.rollout(network, beginning, on_call=recorder.on_call)
    with autocast():
        for _ in rollout.run(chunks):
            pass
    return Trajectory(films=films, made=rollout.state, transitions=tuple(recorder.transitions))


def replay(
    network: WanTransformer, trajectory: Trajectory, chosen: Collection[int], *, autocast: Autocast
) -> Iterator[tuple[Transition, Tensor]]:
    """The chosen ones of a record's transitions, by index, each with x0 as the network estimates it; float32.

    Estimates have gradients if those are on. Back-propagate one before asking for the next, and one network call's
    graph is held at a time, however long the film. The weights must not change while a replay is under way.
    """
    films, transitions = trajectory.films, trajectory.transitions
    rollout = films.rollout(network, replace(trajectory.made, chunks=()))
    last = max((transitions[index].chunk for index in chosen), default=-1)
    for number, chunk in enumerate(trajectory.made.chunks[: last + 1]):
        with torch.no_grad(), autocast():
            past = rollout.past()
        for index in sorted(index for index in chosen if transitions[index].chunk == number):
            with autocast():
                x0 = estimate(network, transitions[index].step, films, past)
            yield transitions[index], x0
        rollout.append(chunk.latents)
