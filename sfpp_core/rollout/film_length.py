"""A wish in seconds as whole chunks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..wan.geometry import FRAMES_PER_SECOND, WAN21

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


def film_length(seconds: float, *, chunk: int, continues: bool) -> FilmLength:
    """The shortest run of whole chunks of `chunk` latent frames that lasts at least `seconds`.

    `continues`: the chunks follow frames that are there already; otherwise the first latent frame is one picture, and
    valid lengths with chunk 3 are 9, 21, 33, ... (12c - 3) frames. Raises ValueError if `seconds` is not above 0.
    """
    if not seconds > 0:
        raise ValueError(f"seconds is {seconds:g}; a film needs more than 0.")
    frames = max(1, math.ceil(seconds * FRAMES_PER_SECOND - TOLERANCE))
    latent_frames = math.ceil(frames / WAN21.temporal_stride) if continues else WAN21.latent_frames(frames)
    num_chunks = math.ceil(latent_frames / chunk)
    made = num_chunks * chunk
    pixel_frames = made * WAN21.temporal_stride if continues else WAN21.pixel_frames(made)
    return FilmLength(asked_seconds=seconds, num_chunks=num_chunks, pixel_frames=pixel_frames)
