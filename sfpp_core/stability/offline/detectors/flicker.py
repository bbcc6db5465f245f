"""Light that goes up and down again and again."""

from __future__ import annotations

from typing import Final

import numpy as np

from .scale import severity, windowed_median
from .shots import Shots

_FLICKER_SCALE, _FLICKER_POWER = 0.03, 2.5
"""Of the range of luma. Between 2 and 20 changes a second the eye notices about half a hundredth (de Lange, 1958)."""
_REACHES: Final = (1, 2, 4)
"""In frames: each is most sensitive to a period of twice its length."""
_PERIODS: Final = 4


def flicker(shots: Shots) -> np.ndarray:
    """[F] severity of the flicker of mean luma."""
    return severity(flicker_amplitude(shots), _FLICKER_SCALE, _FLICKER_POWER)


def flicker_amplitude(shots: Shots) -> np.ndarray:
    """[F] amplitude of what goes up and down at least twice a second, as a part of the range of luma.

    For periods of about 2, 4 and 8 frames: how far each frame is from the mean of the two that lie a reach before and
    after it. The median over some periods tells flicker, which is always there, from a step or a flash, which is not; a
    ramp is in the mean of its neighbours. Between the frames that were measured the extremes of luma were kept.
    """
    luminance = shots.drift(shots.series.luminance)
    amplitude = windowed_median(shots.series.swing, 2 * _PERIODS + 1) / 2
    for reach in _REACHES:
        if len(luminance) <= 2 * reach:
            break
        padded = np.pad(luminance, reach, mode="reflect", reflect_type="odd")
        away = np.abs(luminance - (padded[: -2 * reach] + padded[2 * reach :]) / 2) / 2
        amplitude = np.maximum(amplitude, windowed_median(away, 2 * reach * _PERIODS + 1))
    return amplitude
