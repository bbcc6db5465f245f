"""A video that moved, and stands still."""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np

from ...measurement.series import FrameSeries, true_runs
from .scale import window_frames
from .shots import Shots

# Of the usual change from frame to frame: what a codec leaves of equal frames is less, slow motion is more.
_STILL_SHARE: Final = 0.12
# Of the range of luma: below a twentieth of a grey level nothing moves, whatever is usual.
_NO_CHANGE: Final = 0.05 / 255
# A video that never changes by more than a fifth of a grey level has no motion to lose.
_LEAST_MOTION: Final = 0.2 / 255
_MEMORY_SECONDS: Final = 10.0
# Of the motion remembered, that of the quieter moments: flicker or noise that ends must not pass for a freeze.
_QUIET_PERCENTILE: Final = 30
_FRAMES_BEFORE: Final = 3
_DROP: Final = 6.0
_STOPPED_SHARE: Final = 0.35
_LEAST_SECONDS: Final = 0.3
_PLAIN_SECONDS: Final = 1.0
_WORST: Final = 0.85


def freeze(shots: Shots) -> np.ndarray:
    """[F] severity of standing still; a span counts by its length, fully from one second on.

    A still scene is no freeze: it takes motion before it, up to its first frame. What comes to rest, or leaves the
    picture little by little, is none either.
    """
    series = shots.series
    severity = np.zeros(len(series))
    still, usual = _still(series)
    for first, last in true_runs(still):
        seconds = (last - first) / series.rate
        if seconds >= _LEAST_SECONDS and _is_abrupt(series.difference, first, last, usual[first]):
            severity[first:last] = _WORST * min(1.0, seconds / _PLAIN_SECONDS)
    return severity


def _still(series: FrameSeries) -> tuple[np.ndarray, np.ndarray]:
    """[F] whether a frame is the one before, as far as a codec lets them be equal; [F] the usual change so far."""
    still, usual = np.zeros(len(series), dtype=bool), np.zeros(len(series))
    remembered: deque[float] = deque(maxlen=window_frames(_MEMORY_SECONDS, series.rate))
    for frame, difference in enumerate(series.difference):
        if remembered:
            usual[frame] = np.percentile(remembered, _QUIET_PERCENTILE)
            still[frame] = difference < max(_NO_CHANGE, _STILL_SHARE * usual[frame])
        if difference > _LEAST_MOTION and not still[frame]:
            remembered.append(float(difference))
    return still, usual


def _is_abrupt(difference: np.ndarray, first: int, last: int, usual: float) -> bool:
    """Whether motion stopped from one frame to the next."""
    before = np.median(difference[max(1, first - _FRAMES_BEFORE) : first])
    left = max(_NO_CHANGE, float(np.median(difference[first:last])))
    return bool(before > min(_DROP * left, _STOPPED_SHARE * usual))
