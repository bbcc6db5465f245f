"""The settings that decide a rollout, apart from weights, text and seed."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..wan.config import FRAMES_PER_SECOND, WAN21
from .flow import NUM_TIMESTEPS, warp_steps

MOST_CHUNK, MOST_FRAMES, MOST_SHIFT = 64, 1024, 100.0
"""Of a chunk; of window and sink, in latent frames; of the shift. No model comes near them, and a file that asks for
more is not to fill the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutConfig:
    """The settings that a causal student samples with; the defaults are Self-Forcing's and Self-Forcing++'s."""

    chunk: int = 3
    """Latent frames denoised together."""
    window: int = 21
    """Latent frames that attention may see, sink and current chunk included."""
    sink: int = 0
    """First latent frames that stay in the cache for ever."""
    steps: tuple[float, ...] = (1000.0, 750.0, 500.0, 250.0)
    """Timesteps before the shift, falling, in (0, 1000]."""
    first_chunk_steps: tuple[float, ...] = ()
    """Steps of the first generated chunk, which some models give more than the rest; empty for the same."""
    shift: float = 5.0
    """Moves the steps towards noise; 1 leaves them."""
    independent_first: bool = False
    """Whether the first latent frame, which decodes to a single image, is a chunk of its own."""
    context_noise: float = 0.0
    """Timestep (0..1000) at which a finished chunk is written to the cache. As in Self-Forcing's sampler it is what the
    network is told; no noise is added."""

    def __post_init__(self) -> None:
        for name, most in (("chunk", MOST_CHUNK), ("window", MOST_FRAMES), ("sink", MOST_FRAMES)):
            count = getattr(self, name)
            if type(count) is not int:
                raise ValueError(f"{name} is {count!r}; it counts latent frames, a whole number.")
            if count > most:
                raise ValueError(f"{name} is {count}; it can be {most} latent frames at most.")
        for name in ("steps", "first_chunk_steps"):
            steps = getattr(self, name)
            if not isinstance(steps, tuple) or not all(map(_is_number, steps)) or len(steps) > NUM_TIMESTEPS:
                raise ValueError(f"{name} is {reprlib.repr(steps)}; it is a list of at most {NUM_TIMESTEPS} timesteps.")
        for name in ("shift", "context_noise"):
            if not _is_number(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be a number.")
        if type(self.independent_first) is not bool:
            raise ValueError(f"independent_first is {self.independent_first!r}; it must be true or false.")
        if self.chunk < 1:
            raise ValueError(f"chunk is {self.chunk}; at least 1 latent frame is denoised at a time.")
        if self.sink < 0:
            raise ValueError(f"sink is {self.sink}; it counts latent frames, 0 for none.")
        if self.window < self.chunk + self.sink:
            raise ValueError(
                f"window is {self.window}, but it must hold the sink ({self.sink}) and the current chunk "
                f"({self.chunk}): at least {self.chunk + self.sink} latent frames."
            )
        if not self.steps:
            raise ValueError("steps is empty; give at least one timestep, for example 1000, 750, 500, 250.")
        _require_falling("steps", self.steps)
        if self.first_chunk_steps:
            _require_falling("first_chunk_steps", self.first_chunk_steps)
        if not 0 < self.shift <= MOST_SHIFT:
            raise ValueError(
                f"shift is {self.shift:g}; it must be above 0 and at most {MOST_SHIFT:g} (5 for Self-Forcing models)."
            )
        if not 0 <= self.context_noise <= NUM_TIMESTEPS:
            raise ValueError(f"context_noise is {self.context_noise:g}; it is a timestep from 0 to {NUM_TIMESTEPS}.")

    @classmethod
    def from_json(cls, entries: Mapping[str, Any]) -> RolloutConfig:
        """The settings that `dataclasses.asdict` wrote to JSON, whose lists were tuples.

        Raises KeyError if one that no model leaves open is missing, TypeError for an entry that is no setting,
        ValueError for a value that cannot work.
        """
        for name in ("chunk", "window", "sink", "steps", "shift"):
            if name not in entries:
                raise KeyError(name)
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in entries.items()})

    @property
    def timesteps(self) -> tuple[float, ...]:
        """The steps after the shift, as the network is told them."""
        return warp_steps(self.steps, self.shift)

    @property
    def first_chunk_timesteps(self) -> tuple[float, ...]:
        """The same for the first generated chunk."""
        return warp_steps(self.first_chunk_steps or self.steps, self.shift)

    def chunk_frames(self, first_frame: int) -> int:
        """Latent frames of the chunk that starts at latent frame `first_frame`."""
        return 1 if self.independent_first and first_frame == 0 else self.chunk

    def frames_after(self, num_chunks: int, *, made: int = 0) -> int:
        """Latent frames of a video of `made` latent frames after `num_chunks` more chunks."""
        for _ in range(num_chunks):
            made += self.chunk_frames(made)
        return made

    def chunks_for(self, latent_frames: int, *, made: int = 0) -> int:
        """Fewest chunks that bring a video of `made` latent frames to at least `latent_frames`."""
        chunks = 0
        while made < latent_frames:
            made += self.chunk_frames(made)
            chunks += 1
        return chunks


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _require_falling(name: str, steps: tuple[float, ...]) -> None:
    falling = all(first > second for first, second in pairwise(steps))
    if not falling or not all(0 < step <= NUM_TIMESTEPS for step in steps):
        raise ValueError(
            f"{name} are {', '.join(f'{step:g}' for step in steps)}; they must fall from at most {NUM_TIMESTEPS} and "
            "stay above 0, for example 1000, 750, 500, 250."
        )


TOLERANCE = 1e-6
"""Of a frame: what binary fractions may add to a product of seconds and frame rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoLength:
    """A video, or an addition to one, that is made of whole chunks."""

    asked_seconds: float
    num_chunks: int
    pixel_frames: int
    """Frames that the chunks add to the video."""

    def __str__(self) -> str:
        seconds = self.pixel_frames / FRAMES_PER_SECOND
        rounded = "" if math.isclose(seconds, self.asked_seconds) else f", rounded up from {self.asked_seconds:g} s"
        return f"{self.pixel_frames} frames, {seconds:.2f} s{rounded}"


def video_length(seconds: float, config: RolloutConfig, *, made: int) -> VideoLength:
    """The fewest whole chunks that add at least `seconds` to a video of `made` latent frames.

    The first latent frame of a video is a single picture: with chunks of 3, videos are 9, 21, 33, ... (12c - 3) frames
    long. Raises ValueError if `seconds` is not above 0 or not finite.
    """
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds is {seconds:g}; a video needs more than 0, and an end.")
    frames = max(1, math.ceil(seconds * FRAMES_PER_SECOND - TOLERANCE))
    frames_made = WAN21.pixel_frames(made) if made else 0
    num_chunks = config.chunks_for(WAN21.latent_frames(frames_made + frames), made=made)
    added = WAN21.pixel_frames(config.frames_after(num_chunks, made=made)) - frames_made
    return VideoLength(asked_seconds=seconds, num_chunks=num_chunks, pixel_frames=added)
