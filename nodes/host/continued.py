"""A clip that a film continues: its pictures on the film's own clock and in the film's size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ...sfpp_core.video.reader import shown_at
from ...sfpp_core.video.span import Footage
from ...sfpp_core.wan.config import FRAMES_PER_SECOND, WAN21
from .decoding import Film
from .footage import footage_of
from .progress import interrupt_if_asked

TOLERANCE = 1e-3
"""Of a frame, in a video's duration."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ContinuedClip:
    """A VIDEO at the film's rate and size."""

    video: Any
    width: int
    """In pixels, of the film."""
    height: int
    num_frames: int
    """At the film's rate."""
    num_given: int
    """Of these, the last ones that the film begins with: one more than a multiple of 4."""

    @classmethod
    def of(cls, video: Any, *, seconds: float, width: int, height: int) -> ContinuedClip:
        """The clip, of whose end about `seconds` are given to the film. A side of 0 takes the video's own.

        Raises ValueError for a size that no film has, and as `footage_of`.
        """
        with footage_of(video, FRAMES_PER_SECOND) as footage:
            own_height, own_width = (side // WAN21.size_multiple * WAN21.size_multiple for side in footage.size)
            num_frames = max(1, math.floor(footage.duration * FRAMES_PER_SECOND + TOLERANCE))
        wanted = min(num_frames, max(1, round(seconds * FRAMES_PER_SECOND)))
        latent_height, latent_width = WAN21.latent_size(height or own_height, width or own_width)
        return cls(
            video=video,
            width=latent_width * WAN21.spatial_stride,
            height=latent_height * WAN21.spatial_stride,
            num_frames=num_frames,
            num_given=(wanted - 1) // WAN21.temporal_stride * WAN21.temporal_stride + 1,
        )

    def given(self) -> Iterator[np.ndarray]:
        """The pictures that the film begins with, uint8 H W C."""
        return self._pictures(self.num_frames - self.num_given, self.num_given)

    def all(self) -> Iterator[np.ndarray]:
        """All pictures, uint8 H W C."""
        return self._pictures(0, self.num_frames)

    def _pictures(self, first: int, count: int) -> Iterator[np.ndarray]:
        with footage_of(self.video, FRAMES_PER_SECOND) as footage:
            start = first / FRAMES_PER_SECOND
            for picture in shown_at(_from(footage, start), start, FRAMES_PER_SECOND, count):
                yield self._fitted(picture)

    def _fitted(self, picture: np.ndarray) -> np.ndarray:
        """Scaled to cover the film's size, and cut to it evenly on both sides."""
        if picture.shape[:2] == (self.height, self.width):
            return picture
        image = Image.fromarray(picture)
        return np.asarray(ImageOps.fit(image, (self.width, self.height), Image.Resampling.LANCZOS))


@contextmanager
def behind(clip: ContinuedClip, film: AbstractContextManager[Film]) -> Iterator[Film]:
    """A film that shows the clip's own pictures first; of what it is given, those that the clip has are left out.

    Raises ComfyUI's interrupt.
    """
    with film as opened:
        for picture in clip.all():
            interrupt_if_asked()
            opened.write(torch.from_numpy(picture.copy())[None])
        yield _Rest(opened, clip.num_given)


class _Rest:
    """A film without the first pictures that it is given."""

    def __init__(self, film: Film, num_known: int) -> None:
        self._film = film
        self._num_known = num_known

    def write(self, frames: Tensor) -> None:
        """See Film."""
        known = min(self._num_known, len(frames))
        self._num_known -= known
        self._film.write(frames[known:])


def _from(footage: Footage, start: float) -> Iterator[tuple[float, np.ndarray]]:
    """Pictures from the one in view at `start` on: of a video of few pictures a second that is one from before."""
    before = max(0.0, start - 1.0)
    return footage.segment(before, footage.end).frames(max_rate=1000.0)
