"""A window of a rollout, recorded so that the gradient can be sent through denoising steps of each of its chunks.

The window is first rolled as inference rolls it, without gradients. Once its gradient is known, each chunk's step, or
all of its steps, are run again, with gradients, against the cache as it was, and back-propagated at once: one chunk's
graph lives at a time, whatever the window, and the past has no gradient (Self-Forcing, arXiv 2506.08009, section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.flow import NUM_TIMESTEPS, NoiseSource, flow_to_x0
from sfpp_core.rollout.kv_cache import RollingKVCache
from sfpp_core.rollout.rollout import Progress, Rollout
from sfpp_core.rollout.state import RolloutState
from sfpp_core.wan.transformer import WanTransformer

from ..parallel import World

Autocast = Callable[[], AbstractContextManager[object]]
"""Makes the context that a network runs in. A new one for calls with gradients: before PyTorch 2.11 autocast may keep
casts of weights that were made without gradients until its context ends (pytorch/pytorch#112583)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Films:
    """What a batch of rollouts needs besides its state."""

    text: Tensor
    """[B, L, text_dim]."""
    noise: NoiseSource
    device: torch.device
    dtype: torch.dtype
    """What the network computes and remembers in."""

    def rollout(self, network: WanTransformer, state: RolloutState, **options: object) -> Rollout:
        """Continue `state`; options as of `Rollout`."""
        return Rollout(network, state, self.text, device=self.device, dtype=self.dtype, noise=self.noise, **options)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """The denoising step that made a chunk, or led to the one that did."""

    noised: Tensor
    """What the network was given, [B, C, T, H, W]."""
    timestep: float
    """0..1000."""
    before: Step | None = None
    """The step whose x0 was noised for this one, if the gradient is to go on through it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recording:
    """Chunks as they were rolled."""

    films: Films
    before: RolloutState
    """Where they begin, with its cache."""
    after: RolloutState
    """Where they end; with its cache if that was asked for."""
    steps: tuple[Step, ...]
    """The step that made each chunk, with those before it if they take the gradient as well."""

    @property
    def num_frames(self) -> int:
        """Latent frames recorded."""
        return self.after.num_frames - self.before.num_frames


@torch.no_grad()
def roll(network: WanTransformer, state: RolloutState, films: Films, *, chunks: int) -> RolloutState:
    """The state after `chunks` more chunks, as inference makes them, with a cache that holds them all."""
    rollout = films.rollout(network, state)
    if chunks:
        for _ in rollout.run(chunks):
            pass
    rollout.past()
    return rollout.keep_cache()


@torch.no_grad()
def record(
    network: WanTransformer,
    before: RolloutState,
    films: Films,
    *,
    chunks: int,
    dropped_steps: int = 0,
    all_steps: bool = False,
    keep_cache: bool = False,
) -> Recording:
    """Roll `chunks` chunks on from `before`, which brings its cache along, and note how each was made.

    dropped_steps: how many of the last denoising steps are left out, so that the step that takes the gradient is the
    one that makes the chunk. 0 is what inference does. all_steps: whether the gradient goes through the steps before
    it as well. keep_cache: whether the films are to go on from the end.
    """
    steps: dict[int, Step] = {}

    def note(progress: Progress) -> None:
        if progress.noised is not None:
            before = steps.get(progress.chunk) if all_steps else None
            steps[progress.chunk] = Step(noised=progress.noised, timestep=progress.timestep, before=before)

    shortened = replace(before, config=_without_last_steps(before.config, dropped_steps))
    rollout = films.rollout(network, shortened, on_call=note)
    for _ in rollout.run(chunks):
        pass
    if keep_cache:
        rollout.past()
    after = rollout.keep_cache() if keep_cache else rollout.state
    after = replace(after, config=before.config)
    return Recording(films=films, before=before, after=after, steps=tuple(steps.values()))


def backpropagate(
    network: WanTransformer, recording: Recording, gradient: Tensor, *, autocast: Autocast = nullcontext
) -> None:
    """Add to the network's gradients what follows from d loss / d chunk, through the recorded steps of each chunk.

    gradient: [B, C, T, H, W] with respect to the recorded frames. A chunk whose gradient is zero is passed over.
    """
    films = recording.films
    rollout = films.rollout(network, recording.before)
    made = recording.after.chunks[len(recording.before.chunks) :]
    pieces = gradient.split([chunk.num_frames for chunk in made], dim=2)
    # Sharded weights are gathered for a call, so all processes make the same ones.
    counts = World.current().any(*(bool(piece.any()) for piece in pieces))
    for step, chunk, piece, does_count in zip(recording.steps, made, pieces, counts, strict=True):
        with torch.no_grad(), autocast():
            past = rollout.past()
        if does_count:
            with torch.enable_grad(), autocast():
                x0 = estimate(network, step, films, past)
            x0.backward(piece.to(x0))
        rollout.append(chunk.latents)


def estimate(network: WanTransformer, step: Step, films: Films, past: RollingKVCache) -> Tensor:
    """x0 of a chunk against the past, float32. The text goes in as it is, so that its layers learn too."""
    noised = step.noised.to(films.device)
    if step.before is not None:
        x0 = estimate(network, step.before, films, past)
        # What it was, with the gradient of noising: only x0's share of it depends on the network.
        noised = noised + (1 - step.timestep / NUM_TIMESTEPS) * (x0 - x0.detach())
    timestep = torch.full((noised.shape[0], noised.shape[2]), step.timestep, device=films.device)
    text = films.text.to(films.device, films.dtype)
    flow = network(noised.to(films.dtype), timestep, text, cache=past)
    return flow_to_x0(noised, flow.float(), step.timestep / NUM_TIMESTEPS)


def _without_last_steps(config: RolloutConfig, dropped: int) -> RolloutConfig:
    if dropped == 0:
        return config
    first = config.first_chunk_steps
    # Never none of them: that would stand for `steps`.
    kept = first[: max(1, len(first) - dropped)]
    return replace(config, steps=config.steps[:-dropped], first_chunk_steps=kept)
