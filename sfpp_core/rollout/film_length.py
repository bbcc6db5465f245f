"""A wish in seconds as whole chunks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..wan.geometry import FRAMES_PER_SECOND, WAN21
from .config import RolloutConfig

TOLERANCE = 1e-6
"""Of a frame: what binary fractions may add to a product of seconds and frame rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmLength:
    """A film, or an addition to one, that is made of whole chunks."""

    asked_seconds: float
    num_chunks: int
    pixel_frames: int
    """Frames that the chunks add to the film."""

    def __str__(self) -> str:
        seconds = self.pixel_frames / FRAMES_PER_SECOND
        rounded = "" if math.isclose(seconds, self.asked_seconds) else f", rounded up from {self.asked_seconds:g} s"
        return f"{self.pixel_frames} frames, {seconds:.2f} s{rounded}"


def film_length(seconds: float, config: RolloutConfig, *, made: int) -> FilmLength:
    """The fewest whole chunks that add at least `seconds` to a film of `made` latent frames.

    The first latent frame of a film is a single picture: with chunks of 3, films are 9, 21, 33, ... (12c - 3) frames
    long. Raises ValueError if `seconds` is not above 0 or not finite.
    """
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds is {seconds:g}; a film needs more than 0, and an end.")
    frames = max(1, math.ceil(seconds * FRAMES_PER_SECOND - TOLERANCE))
    frames_made = WAN21.pixel_frames(made) if made else 0
    num_chunks = config.chunks_for(WAN21.latent_frames(frames_made + frames), made=made)
    added = WAN21.pixel_frames(config.frames_after(num_chunks, made=made)) - frames_made
    return FilmLength(asked_seconds=seconds, num_chunks=num_chunks, pixel_frames=added)
