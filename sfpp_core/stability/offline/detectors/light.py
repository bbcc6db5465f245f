"""Exposure and contrast against the first seconds, and against what a picture can hold.

Amounts are in display values (0 black, 1 white), which are nearly even to the eye: 0.01 is about one unit of CIE
lightness, and two to three of those are just noticeable side by side.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ....video.color import LUMA
from .scale import combined, severity, window_frames
from .shots import Shots

_LUMINANCE_SCALE: Final = 0.3
_DARKNESS_OCTAVES: Final = 2.0
_CLIPPED_SCALE: Final = 0.25
# A scene may have a lamp or a night sky in it from the start; beyond this share nothing excuses it.
_EXCUSED_CLIPPED: Final = 0.2
_EXCUSED_CRUSHED: Final = 0.5
# Nor does a film owe a picture at once.
_PARDONED_BLACK_SECONDS: Final = 2.0
_CONTRAST_OCTAVES: Final = 1.2
_GRANTED: Final = 1.5
# Deviations below a grey level are those of a plain picture.
_LEAST: Final = 1 / 255


def over_exposure(shots: Shots) -> np.ndarray:
    """[F] severity of a rise of luminance, and of highlights that are blown out.

    A rise counts in full where it ends in a bright picture, and half where the picture stays dark.
    """
    series = shots.series
    rise = luminance_drift(shots) * (2 * series.luminance).clip(0.5, 1.0)
    return combined(
        severity(rise, _LUMINANCE_SCALE),
        severity(shots.drift(series.highlights), _CLIPPED_SCALE),
        severity(series.highlights - _EXCUSED_CLIPPED, 2 * _CLIPPED_SCALE),
    )


def darkening(shots: Shots) -> np.ndarray:
    """[F] severity of a fall of luminance, also in proportion to what there was, and of shadows that are crushed.

    A fall counts in full where it ends in a dark picture, and half where the picture stays bright.
    """
    series = shots.series
    fall = -luminance_drift(shots)
    octaves = -shots.drift(np.log2(series.luminance + _LEAST))
    # Both must agree: the mean also falls when a bright thing leaves, and octaves are many in a picture of night.
    fall = np.minimum(np.maximum(fall, octaves / _DARKNESS_OCTAVES * _LUMINANCE_SCALE), 2 * np.maximum(fall, 0))
    fall *= (2 * (1 - series.luminance)).clip(0.5, 1.0)
    crushed = series.shadows - _EXCUSED_CRUSHED
    crushed[: min(shots.opening, window_frames(_PARDONED_BLACK_SECONDS, series.rate))] = 0.0
    return combined(
        severity(fall, _LUMINANCE_SCALE),
        severity(shots.drift(series.shadows), 2 * _CLIPPED_SCALE),
        severity(crushed, 2 * _CLIPPED_SCALE),
    )


def contrast_loss(shots: Shots) -> np.ndarray:
    """[F] severity of a fall of contrast, but for what darkening explains: a gain scales both alike."""
    return severity(-contrast_drift(shots), _CONTRAST_OCTAVES)


def contrast_drift(shots: Shots) -> np.ndarray:
    """[F] octaves by which contrast changed beyond what a change of gain explains.

    By standard deviation or by the spread of the middle 80 % of luma, whichever changed less: a lamp that leaves the
    picture takes deviation with it, and leaves the spread.
    """
    series = shots.series
    deviation, spread = (shots.drift(np.log2(values + _LEAST)) for values in (series.contrast, series.spread))
    contrast = np.where(np.abs(deviation) < np.abs(spread), deviation, spread)
    return contrast - np.minimum(shots.drift(np.log2(series.luminance + _LEAST)), 0)


def luminance_drift(shots: Shots) -> np.ndarray:
    """[F] drift of luma that the picture as a whole shows, and that happened to what is seen and not by a pan."""
    tiles = shared_by_the_picture(shots.drift(shots.series.tiles @ LUMA))
    return agreed(tiles, shots.light_drift() @ LUMA)


def shared_by_the_picture(drift: np.ndarray) -> np.ndarray:
    """[F, K, ...] to [F, ...]: the mean of the middle half of the tiles; what comes and goes does not move it."""
    ordered = np.sort(drift, axis=1)
    quarter = drift.shape[1] // 4
    return ordered[:, quarter : drift.shape[1] - quarter].mean(axis=1)


def agreed(level: np.ndarray, followed: np.ndarray) -> np.ndarray:
    """[F] the drift of a level, as far as following what moves bears it out.

    A pan to a darker place changes the level alone, and the small errors of following add up to a drift that the level
    does not show; damage is in both. Half as much again is granted, because fast motion is followed in part.
    """
    followed = _GRANTED * followed
    return np.where(level > 0, np.clip(followed, 0, np.abs(level)), -np.clip(-followed, 0, np.abs(level)))
