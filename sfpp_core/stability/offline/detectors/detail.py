"""Blur and noise against the first seconds."""

from __future__ import annotations

from typing import Final

import numpy as np

from .scale import severity, window_frames, windowed_median
from .shots import Shots

_BLUR_OCTAVES: Final = 1.2
_NOISE_SCALE: Final = 0.03
# Motion blurs for moments, and a compressed film is sharper in its key frames.
_WINDOW_SECONDS: Final = 0.5
_LEAST_SHARPNESS: Final = 0.03


def blur(shots: Shots) -> np.ndarray:
    """[F] severity of a fall of sharpness."""
    return severity(-_steady_drift(shots, np.log2(shots.series.sharpness + _LEAST_SHARPNESS)), _BLUR_OCTAVES)


def noise(shots: Shots) -> np.ndarray:
    """[F] severity of a rise of noise."""
    return severity(_steady_drift(shots, shots.series.noise), _NOISE_SCALE)


def _steady_drift(shots: Shots, values: np.ndarray) -> np.ndarray:
    width = window_frames(_WINDOW_SECONDS, shots.series.rate)
    return windowed_median(shots.drift(values), width)
