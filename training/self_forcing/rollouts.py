"""Recorded windows of the student's rollouts, and where they come from.

Videos restart at every step (`Restarting`, as the paper does) or go on from step to step (`Streaming`, as LongLive
does). A window is first rolled as inference rolls it, without gradients. Once its gradient is known, each chunk's step,
or all of its steps, are run again, with gradients, against the cache as it was, and back-propagated at once: one
chunk's graph lives at a time, whatever the window, and the past has no gradient (Self-Forcing, arXiv 2506.08009,
section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.flow import NUM_TIMESTEPS, NoiseSource, derived_seed, flow_to_x0, generator_for
from sfpp_core.rollout.kv_cache import KVSnapshot, RollingKVCache
from sfpp_core.rollout.rollout import CallProgress, Rollout
from sfpp_core.rollout.state import Chunk, RolloutState
from sfpp_core.wan.transformer import WanTransformer

from ..data.prompt_embeds import Conditioning
from ..engine.distributed import DistContext
from ..engine.seeding import VideoNoise
from ..models.sampling import UNSAVED
from .windows import Window, WindowConfig, draw_beginning, draw_window, rollout_frames_at

Autocast = Callable[[], AbstractContextManager[object]]
"""Makes the context that a network runs in. A new one for calls with gradients: before PyTorch 2.11 autocast may keep
casts of weights that were made without gradients until its context ends (pytorch/pytorch#112583)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RolloutInputs:
    """The inputs of a batch of rollouts besides its state."""

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
class RecordedStep:
    """The denoising step that made a chunk, or led to the one that did."""

    noised: Tensor
    """What the network was given, [B, C, T, H, W]."""
    timestep: float
    """0..1000."""
    before: RecordedStep | None = None
    """The step whose x0 was noised for this one, if the gradient is to go on through it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordedWindow:
    """Chunks as they were rolled."""

    videos: RolloutInputs
    before: RolloutState
    """Where they begin, with its cache."""
    after: RolloutState
    """Where they end; with its cache if that was asked for."""
    steps: tuple[RecordedStep, ...]
    """The step that made each chunk, with those before it if they take the gradient as well."""

    @property
    def num_frames(self) -> int:
        """Latent frames recorded."""
        return self.after.num_frames - self.before.num_frames


@torch.no_grad()
def roll(network: WanTransformer, state: RolloutState, videos: RolloutInputs, *, chunks: int) -> RolloutState:
    """The state after `chunks` more chunks, as inference makes them, with a cache that holds them all."""
    rollout = videos.rollout(network, state)
    if chunks:
        for _ in rollout.run(chunks):
            pass
    rollout.past()
    return rollout.keep_cache()


@torch.no_grad()
def record(
    network: WanTransformer,
    before: RolloutState,
    videos: RolloutInputs,
    *,
    chunks: int,
    dropped_steps: int = 0,
    all_steps: bool = False,
    keep_cache: bool = False,
) -> RecordedWindow:
    """Roll `chunks` chunks on from `before`, which brings its cache along, and note how each was made.

    dropped_steps: how many of the last denoising steps are left out, so that the step that takes the gradient is the
    one that makes the chunk. 0 is what inference does. all_steps: whether the gradient goes through the steps before
    it as well. keep_cache: whether the videos are to go on from the end.
    """
    steps: dict[int, RecordedStep] = {}

    def note(progress: CallProgress) -> None:
        if progress.noised is not None:
            before = steps.get(progress.chunk) if all_steps else None
            steps[progress.chunk] = RecordedStep(noised=progress.noised, timestep=progress.timestep, before=before)

    shortened = replace(before, config=_without_last_steps(before.config, dropped_steps))
    rollout = videos.rollout(network, shortened, on_call=note)
    for _ in rollout.run(chunks):
        pass
    if keep_cache:
        rollout.past()
    after = rollout.keep_cache() if keep_cache else rollout.state
    after = replace(after, config=before.config)
    return RecordedWindow(videos=videos, before=before, after=after, steps=tuple(steps.values()))


def backpropagate(
    network: WanTransformer, recording: RecordedWindow, gradient: Tensor, *, autocast: Autocast = nullcontext
) -> None:
    """Add to the network's gradients what follows from d loss / d chunk, through the recorded steps of each chunk.

    gradient: [B, C, T, H, W] with respect to the recorded frames. A chunk whose gradient is zero is passed over.
    """
    videos = recording.videos
    rollout = videos.rollout(network, recording.before)
    made = recording.after.chunks[len(recording.before.chunks) :]
    pieces = gradient.split([chunk.num_frames for chunk in made], dim=2)
    # Sharded weights are gathered for a call, so all processes make the same ones.
    counts = DistContext.current().any(*(bool(piece.any()) for piece in pieces))
    for step, chunk, piece, does_count in zip(recording.steps, made, pieces, counts, strict=True):
        with torch.no_grad(), autocast():
            past = rollout.past()
        if does_count:
            with torch.enable_grad(), autocast():
                x0 = estimate(network, step, videos, past)
            x0.backward(piece.to(x0))
        rollout.append(chunk.latents)


def estimate(network: WanTransformer, step: RecordedStep, videos: RolloutInputs, past: RollingKVCache) -> Tensor:
    """x0 of a chunk against the past, float32. The text goes in as it is, so that its layers learn too."""
    noised = step.noised.to(videos.device)
    if step.before is not None:
        x0 = estimate(network, step.before, videos, past)
        # What it was, with the gradient of noising: only x0's share of it depends on the network.
        noised = noised + (1 - step.timestep / NUM_TIMESTEPS) * (x0 - x0.detach())
    timestep = torch.full((noised.shape[0], noised.shape[2]), step.timestep, device=videos.device)
    text = videos.text.to(videos.device, videos.dtype)
    flow = network(noised.to(videos.dtype), timestep, text, cache=past)
    return flow_to_x0(noised, flow.float(), step.timestep / NUM_TIMESTEPS)


def _without_last_steps(config: RolloutConfig, dropped: int) -> RolloutConfig:
    if dropped == 0:
        return config
    first = config.first_chunk_steps
    # Never none of them: that would stand for `steps`.
    kept = first[: max(1, len(first) - dropped)]
    return replace(config, steps=config.steps[:-dropped], first_chunk_steps=kept)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RolloutPlan:
    """The choices that all videos of a run share."""

    conditioning: Conditioning
    config: RolloutConfig
    window: WindowConfig
    seed: int
    samples: range
    """Those of the global batch that this process rolls."""
    size: tuple[int, int]
    """Latent height and width."""
    channels: int
    device: torch.device
    dtype: torch.dtype
    all_steps: bool = False
    """Whether all denoising steps of a chunk take the gradient."""

    def longest(self, update: int) -> int:
        """Latent frames that videos may get at an update of the generator's."""
        return rollout_frames_at(self.window, update, chunk=self.config.chunk)

    def videos(self, *names: str | int) -> RolloutInputs:
        """The videos of a name: prompts and seeds are pure functions of (seed, names, sample)."""
        drawn = [generator_for(self.seed, *names, "prompt", sample) for sample in self.samples]
        prompts = [int(torch.randint(len(self.conditioning.prompts), (), generator=one)) for one in drawn]
        return RolloutInputs(
            text=self.conditioning.text(prompts),
            noise=VideoNoise(tuple(derived_seed(self.seed, *names, "film", sample) for sample in self.samples)),
            device=self.device,
            dtype=self.dtype,
        )

    def window_of_new_videos(
        self, network: WanTransformer, window: Window, *names: str | int, dropped_steps: int
    ) -> Rolled:
        """The videos of a name, rolled from their beginning to a window's end."""
        chunk, videos = self.config.chunk, self.videos(*names)
        before = roll(network, self.beginning(), videos, chunks=window.start // chunk)
        recording = record(
            network,
            before,
            videos,
            chunks=window.frames // chunk,
            dropped_steps=dropped_steps,
            all_steps=self.all_steps,
        )
        return Rolled(window=window, recording=recording)

    def beginning(self) -> RolloutState:
        """Videos with no frame yet."""
        shape = (len(self.samples), self.channels, *self.size)
        return RolloutState(config=self.config, seed=self.seed, model_id=UNSAVED, shape=shape)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rolled:
    """A window that is to be judged."""

    window: Window
    recording: RecordedWindow
    """Its frames, or its last ones, where the first were made at an earlier step."""

    @property
    def num_old(self) -> int:
        """First frames of the window that are not in the recording, and so get no gradient."""
        return self.window.frames - self.recording.num_frames


def shared_frames(window: WindowConfig, chunk: int) -> int:
    """Return how many latent frames successive windows of a streaming video have in common.

    Whole chunks, so that they hold all that `as_clip` encodes again.
    """
    return math.ceil(window.masked_frames / chunk) * chunk


def windows_in_video(window: WindowConfig, chunk: int) -> int:
    """Successive windows of a video that goes on to its full length."""
    return 1 + (window.rollout_frames - window.frames) // (window.frames - shared_frames(window, chunk))


class WindowSource(Protocol):
    """Rolls windows."""

    def roll(self, network: WanTransformer, update: int, *names: str | int, dropped_steps: int) -> Rolled:
        """The next window, for the generator's update number `update`; names tell one of its windows from another."""
        ...

    def state(self) -> dict[str, Any]:
        """Return what a stopped run needs to roll the next window as if it had not been stopped."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        ...


class Restarting:
    """New videos for every window, rolled from their beginning to the window's end, as the paper does."""

    def __init__(self, stage: RolloutPlan) -> None:
        self._stage = stage

    def roll(self, network: WanTransformer, update: int, *names: str | int, dropped_steps: int) -> Rolled:
        """See WindowSource."""
        stage, chunk = self._stage, self._stage.config.chunk
        longest = stage.longest(update)
        window = draw_window(stage.window, update, *names, seed=stage.seed, rollout_frames=longest, chunk=chunk)
        return stage.window_of_new_videos(network, window, update, *names, dropped_steps=dropped_steps)

    def state(self) -> dict[str, Any]:
        """Nothing: every window starts over."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to do."""


class Streaming:
    """Videos that go on by a window at a time, across updates, and start over when they are as long as they get.

    As LongLive trains (arXiv 2509.22622): a window costs the same wherever in the video it lies. The price is that keys
    and values in the cache come from somewhat older weights, and that all videos of a step are at the same moment. A
    window from mid-video begins with the last chunks of the one before, as many as `as_clip` makes again: they have had
    their gradient, so every chunk of a video gets it once.
    """

    def __init__(self, stage: RolloutPlan) -> None:
        self._stage = stage
        self._number = 0
        self._videos: RolloutInputs | None = None
        self._latest: RolloutState | None = None

    def roll(self, network: WanTransformer, update: int, *names: str | int, dropped_steps: int) -> Rolled:
        """See WindowSource; every window is the next, except for beginnings that are judged out of turn."""
        stage, chunk = self._stage, self._stage.config.chunk
        if draw_beginning(stage.window, update, *names, seed=stage.seed):
            first = Window(start=0, frames=stage.window.frames)
            return stage.window_of_new_videos(network, first, update, *names, dropped_steps=dropped_steps)
        if self._latest is None or self._next_window().end > stage.longest(update):
            self._begin()
        window, before = self._next_window(), self._latest
        chunks = (window.end - before.num_frames) // chunk
        recording = record(
            network,
            before,
            self._videos,
            chunks=chunks,
            dropped_steps=dropped_steps,
            all_steps=stage.all_steps,
            keep_cache=True,
        )
        self._latest = recording.after
        return Rolled(window=window, recording=recording)

    def state(self) -> dict[str, Any]:
        """The videos under way: their number, latents and cache."""
        if self._latest is None:
            return {"number": self._number}
        cache = self._latest.cache
        return {
            "number": self._number,
            "latents": self._latest.latents,
            "cached_frames": cache.num_frames,
            "keys": list(cache.keys),
            "values": list(cache.values),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._number, self._videos, self._latest = state["number"], None, None
        if "latents" not in state:
            return
        self._videos = self._stage.videos("film", self._number - 1)
        began, text = self._stage.beginning().with_text(self._videos.text)
        pieces = state["latents"].split(self._stage.config.chunk, dim=2)
        cache = KVSnapshot(state["cached_frames"], tuple(state["keys"]), tuple(state["values"]))
        self._latest = replace(began, chunks=tuple(Chunk(latents=piece, text=text) for piece in pieces), cache=cache)

    def _next_window(self) -> Window:
        stage = self._stage
        start = max(0, self._latest.num_frames - shared_frames(stage.window, stage.config.chunk))
        return Window(start=start, frames=stage.window.frames)

    def _begin(self) -> None:
        self._videos = self._stage.videos("film", self._number)
        self._latest = self._stage.beginning()
        self._number += 1
