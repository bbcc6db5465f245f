"""Lengths at which a film is judged, and the last seconds before each, cut out while the film is made.

Axes: B film, F frame, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sfpp_core.wan.config import FRAMES_PER_SECOND, WAN21

END_LATENT_FRAMES = 21
"""Of the window that ends a length: the teacher's horizon, 5 s, 81 frames."""
END_FRAMES = WAN21.pixel_frames(END_LATENT_FRAMES)
END_SECONDS = END_FRAMES / FRAMES_PER_SECOND


def latent_frames_of(seconds: float) -> int:
    """Fewest latent frames of a film of that length: 21 for 5 s."""
    return WAN21.latent_frames(round(seconds * FRAMES_PER_SECOND))


def frames_of(seconds: float) -> int:
    """Frames of a film of that length: those of its latent frames, 81 for 5 s."""
    return WAN21.pixel_frames(latent_frames_of(seconds))


class Ends:
    """Cuts the last `END_FRAMES` frames before each length out of films that pass by; keeps no more than that."""

    def __init__(self, lengths: Sequence[float]) -> None:
        """lengths: in seconds, rising, none shorter than 5 s."""
        self._marks = [(length, frames_of(length)) for length in lengths]
        self._recent: Tensor | None = None
        self._seen = 0

    def see(self, piece: Tensor) -> Iterator[tuple[float, Tensor]]:
        """Take the next frames, B 3 F H W; give each length that they complete and its window, B 3 81 H W."""
        self._recent = piece if self._recent is None else torch.cat([self._recent, piece], dim=2)
        self._seen += piece.shape[2]
        while self._marks and self._marks[0][1] <= self._seen:
            length, frames = self._marks.pop(0)
            end = self._recent.shape[2] - (self._seen - frames)
            yield length, self._recent[:, :, end - END_FRAMES : end]
        self._recent = self._recent[:, :, -END_FRAMES:]
