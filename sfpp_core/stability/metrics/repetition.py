"""Whether a film plays its beginning again.

RIFLEx (arXiv 2502.15894) found that models which are run past the length they were trained on often start again from
the first frame, and gives models a NoRepeat score: the percentage of videos that do not. We read its rule as: the part
beyond the training length is compared with the part within it, and a video repeats if they come closer than a threshold
in the L2 distance of frames. The threshold is not published, and a plain distance cannot tell a film that starts again
from one that has come to rest, or shows little change at all. What is computed here, per video:

- frames are the small grey pictures of a `FrameSeries`, each minus its mean, so that a loop under drifting exposure or
  flicker is still one;
- every run of two seconds beyond the first part is laid over every run of two seconds within it, frame by frame;
- the match is the share of the earlier run's movement (its variance over time, pixel by pixel) that the later run
  follows: 1 - mean squared distance / variance. An exact copy has 1, a still picture at the earlier run's mean has 0;
- the film repeats if a match reaches `SAME_RUN`. The NoRepeat score of many films is the percentage that does not.

A run in which nothing moves matches nothing, so a film that stands still or slows down does not repeat: that is a
matter for the dynamic degree and the frozen spans. Real periodic motion, such as a pendulum's, does count.

Axes: F frames, L later runs, E early runs, P pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..measurement.series import FrameSeries

FIRST_PART_SECONDS: Final = 5.0
"""What the published students were trained on."""
RUN_SECONDS: Final = 2.0
SAME_RUN: Final = 0.8
"""Share of the movement that must be followed; what loops and other films were measured to have: docs/stability.md."""
_STILL: Final = (0.5 / 255) ** 2  # variance of a picture that moves by less than half a grey level
_FRAMES_AT_A_TIME: Final = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Repetition:
    """The closest that a film comes to playing its first seconds again."""

    match: float
    """1 for an exact copy, 0 or less for none."""
    start: float
    """Seconds: where the later run begins."""
    source: float
    """Seconds: where the run begins that it is like."""

    @property
    def repeats(self) -> bool:
        """Whether that is close enough to call the film repeating."""
        return self.match >= SAME_RUN


def closest_repetition(series: FrameSeries) -> Repetition | None:
    """See the file's head. None if nothing can be told: the film is too short, or its beginning does not move."""
    run = round(RUN_SECONDS * series.rate)
    num_early = int(np.count_nonzero(series.time - series.time[0] < FIRST_PART_SECONDS))
    if run < 2 or num_early < run or len(series.time) - num_early < run:
        return None
    early = _centred(series.thumbnails[:num_early])
    moved = np.array([early[start : start + run].var(axis=0).mean() for start in range(num_early - run + 1)])
    distances = _run_means(_squared_distances(series.thumbnails[num_early:], early), run)
    moving = moved > _STILL
    if not moving.any():
        return None
    matches = 1 - distances[:, moving] / moved[moving]
    later, source = np.unravel_index(np.argmax(matches), matches.shape)
    return Repetition(
        match=float(np.clip(matches[later, source], -1, 1)),
        start=float(series.time[num_early + later]),
        source=float(series.time[np.flatnonzero(moving)[source]]),
    )


def _centred(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[F, h, w] to [F, P] in display values, each frame's mean taken off."""
    pixels = thumbnails.reshape(len(thumbnails), -1).astype(np.float32) / 255
    return pixels - pixels.mean(axis=1, keepdims=True)


def _squared_distances(thumbnails: NDArray[np.uint8], early: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean squared difference of each frame [F, h, w] to each early frame [E, P]: [F, E]."""
    num_pixels = early.shape[1]
    rows = []
    for first in range(0, len(thumbnails), _FRAMES_AT_A_TIME):
        late = _centred(thumbnails[first : first + _FRAMES_AT_A_TIME])
        squares = (late**2).sum(axis=1)[:, None] + (early**2).sum(axis=1) - 2 * late @ early.T
        rows.append(np.maximum(squares, 0) / num_pixels)
    return np.concatenate(rows)


def _run_means(distances: NDArray[np.float32], run: int) -> NDArray[np.float32]:
    """Mean along the diagonals: [F, E] frame distances to the distances of runs of `run` frames that start there."""
    num_late, num_early = (length - run + 1 for length in distances.shape)
    total = np.zeros((num_late, num_early), dtype=np.float32)
    for step in range(run):
        total += distances[step : step + num_late, step : step + num_early]
    return total / run
