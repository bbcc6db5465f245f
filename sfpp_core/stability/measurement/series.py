"""What was measured in a video, frame by frame.

Axes: F frames, H height, W width, K tiles, C colours (RGB).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FrameSeries:
    """One entry a frame, at most 16 a second. Values of light are display values: 0 black, 1 white, as encoded.

    What compares a frame with the one before is 0 for the first.
    """

    time: np.ndarray
    """[F] seconds since the start of the whole video, rising."""
    luminance: np.ndarray
    """[F] mean luma."""
    contrast: np.ndarray
    """[F] standard deviation of luma."""
    spread: np.ndarray
    """[F] 90th percentile of luma less the 10th."""
    highlights: np.ndarray
    """[F] share of pixels that are blown out: luma of at least 250/255."""
    shadows: np.ndarray
    """[F] share of pixels that are crushed: luma of at most 5/255."""
    red: np.ndarray
    """[F] mean of the red channel."""
    green: np.ndarray
    """[F] mean of the green channel."""
    blue: np.ndarray
    """[F] mean of the blue channel."""
    saturation: np.ndarray
    """[F] mean difference of a pixel's largest and smallest channel."""
    sharpness: np.ndarray
    """[F] how much finest detail there is at edges, for the shapes of four times its size; see detail.py."""
    noise: np.ndarray
    """[F] deviation of luma from its surroundings in the plain parts of the picture; see detail.py."""
    difference: np.ndarray
    """[F] mean absolute change of luma from the frame before."""
    swing: np.ndarray
    """[F] largest less smallest mean luma from the frame before to this one, frames between them included, and less
    what the two differ by: flicker that is faster than the sampling."""
    flow: np.ndarray
    """[F] mean length of the optical flow from the frame before, in picture heights a second."""
    flow_top: np.ndarray
    """[F] mean of the largest 5 % of those lengths, the statistic of VBench's dynamic degree (arXiv 2311.17982)."""
    light_change: np.ndarray
    """[F, C] change of the mean colour from the frame before, of what is seen in both, wherever it moved."""
    tiles: np.ndarray
    """[F, K, C] float32, mean colour of the tiles of a 6 x 6 grid."""
    thumbnails: np.ndarray
    """[F, H, W] uint8, small grey pictures."""

    def __post_init__(self) -> None:
        lengths = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        if not lengths["time"] or len(set(lengths.values())) != 1:
            raise ValueError(f"a series has one entry a frame and at least one frame; these have {lengths}.")
        if not (np.diff(self.time) > 0).all():
            raise ValueError("the times of a series must rise.")

    def __len__(self) -> int:
        return len(self.time)

    @property
    def rate(self) -> float:
        """Frames a second, the usual distance of two frames; 16 if there is only one frame."""
        return 1 / float(np.median(np.diff(self.time))) if len(self) > 1 else 16.0

    def between(self, start: float, end: float) -> FrameSeries:
        """The frames from `start` to before `end`, in seconds; at least one, the one shown at `start`.

        The first one keeps its comparison with the frame before it.
        """
        first, last = np.searchsorted(self.time, (start, end))
        if first == last:
            first = max(0, first - 1)
        chosen = slice(first, max(last, first + 1))
        return replace(self, **{field.name: getattr(self, field.name)[chosen] for field in fields(self)})


def true_runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """First and last (not included) index of each run of true values among flags [F]."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False]))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
