"""A video that moved, and stands still."""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np

from ...measurement.series import FrameSeries, true_runs
from .scale import window_frames, windowed_mean
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

_LEAST_SECONDS: Final = 0.3
_PLAIN_SECONDS: Final = 1.0
_WORST: Final = 0.85
# Motion that stops is whole up to its last frame; three, because drawn motion is held, and a codec takes a frame or two
# to come to rest itself.
_LAST_FRAMES: Final = 3
# The largest of the last changes against what is left, and against the usual one.
_DROP: Final = 7.5
_STOPPED_SHARE: Final = 0.45
# Of the usual motion of the half second before: what takes six frames or more to leave the picture is below this then.
_UNBROKEN_SHARE: Final = 0.8
_COURSE_SECONDS: Final = 0.5

# Rest is pardoned at first, and is never as bad as a picture that was stopped.
_PARDONED_SECONDS: Final = 2.0
_LIFELESS_SECONDS: Final = 6.0
_LIFELESS_WORST: Final = 0.35
_REST_WINDOW_SECONDS: Final = 0.5
# A film that moved for a quarter of its first seconds had motion.
_LIVELY_PERCENTILE: Final = 75


def freeze(shots: Shots) -> np.ndarray:
    """[F] severity of standing still: of motion that stops, or of a film that has come to rest and stays there.

    A still scene is no freeze: it takes motion before it. A stop counts by its length, fully from one second on. Motion
    that dies away, or leaves the picture little by little, is a rest, which a film may have: it counts from two seconds
    on, and in full, which is less than half of a stop, from six.
    """
    return np.maximum(_stopped(shots.series), _come_to_rest(shots.series))


def _stopped(series: FrameSeries) -> np.ndarray:
    """[F] severity of standing still from one frame to the next."""
    severity = np.zeros(len(series))
    still, usual = _still(series)
    for first, last in true_runs(still):
        seconds = (last - first) / series.rate
        if seconds >= _LEAST_SECONDS and _is_abrupt(series, first, last, usual[first]):
            severity[first:last] = _WORST * min(1.0, seconds / _PLAIN_SECONDS)
    return severity


def _come_to_rest(series: FrameSeries) -> np.ndarray:
    """[F] severity of hardly any change, for seconds, in a film whose first seconds had it.

    Change is a mean over half a second: drawn motion may be held for some frames.
    """
    severity = np.zeros(len(series))
    change = windowed_mean(series.difference, window_frames(_REST_WINDOW_SECONDS, series.rate))
    first_seconds = series.difference[: window_frames(_MEMORY_SECONDS, series.rate)]
    first_change = float(np.percentile(first_seconds, _LIVELY_PERCENTILE))
    for first, last in true_runs(change < min(_LEAST_MOTION, _STILL_SHARE * first_change)):
        beyond = (last - first) / series.rate - _PARDONED_SECONDS
        share = np.clip(beyond / (_LIFELESS_SECONDS - _PARDONED_SECONDS), 0, 1)
        severity[first:last] = _LIFELESS_WORST * share
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


def _is_abrupt(series: FrameSeries, first: int, last: int, usual: float) -> bool:
    """Whether motion stopped from one frame to the next, and was whole until then."""
    course = series.difference[max(1, first - window_frames(_COURSE_SECONDS, series.rate, least=3)) : first]
    before = course[-_LAST_FRAMES:].max()
    left = max(_NO_CHANGE, float(np.median(series.difference[first:last])))
    is_drop = before > min(_DROP * left, _STOPPED_SHARE * usual)
    return bool(is_drop and before > _UNBROKEN_SHARE * np.median(course))
