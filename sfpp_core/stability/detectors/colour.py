"""A colour cast: a shift of hue that the whole picture shares."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from .light import contrast_drift
from .scale import severity
from .shots import Shots

_CAST_SCALE: Final = 16.0
"""In units of CIE Lab, of which 2.3 are just noticeable (Mahy et al., 1994)."""


def colour_cast(shots: Shots) -> np.ndarray:
    """[F] severity of the chroma that all parts of the picture gained alike, in CIE Lab."""
    return severity(cast_length(shots), _CAST_SCALE)


def cast_length(shots: Shots) -> np.ndarray:
    """[F] length of the shift in the a, b plane that a change of exposure or contrast does not explain.

    A gain of light scales a, b and L + 16 alike, by the definition of CIE Lab; a loss of contrast scales a and b.
    """
    lab = _lab(shots.series.tiles)
    chroma = lab[..., 1:]
    before = shots.reference(chroma)
    lightness = shots.reference(lab[..., 0]) + 16
    gain = (lightness + shots.drift(lab[..., 0])).clip(1.0) / lightness
    scale = gain * np.exp2(np.minimum(contrast_drift(shots), 0))[:, None]
    shift = shots.drift(chroma) - (scale - 1)[..., None] * before
    ordered = np.sort(shift, axis=1)
    quarter = shift.shape[1] // 4
    return np.linalg.norm(ordered[:, quarter : shift.shape[1] - quarter].mean(axis=1), axis=1)


def _lab(tiles: np.ndarray) -> np.ndarray:
    """[F, K, RGB in 0..1] to [F, K, Lab]."""
    return cv2.cvtColor(np.ascontiguousarray(tiles, dtype=np.float32), cv2.COLOR_RGB2Lab)
