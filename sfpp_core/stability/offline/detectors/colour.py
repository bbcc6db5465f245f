"""A colour cast: a shift of hue that the whole picture shares."""

from __future__ import annotations

from typing import Final

import numpy as np

from ...measurement.cielab import JUST_NOTICEABLE, cielab
from .light import agreed, contrast_drift, shared_by_the_picture
from .scale import severity
from .shots import Shots

_CAST_SCALE: Final = 16.0
"""In units of CIE Lab."""


def colour_cast(shots: Shots) -> np.ndarray:
    """[F] severity of the chroma that all parts of the picture gained alike, in CIE Lab."""
    return severity(cast_length(shots), _CAST_SCALE)


def cast_length(shots: Shots) -> np.ndarray:
    """[F] length of the shift in the a, b plane that a change of exposure or contrast does not explain.

    A gain of light scales a, b and L + 16 alike, by the definition of CIE Lab; a loss of contrast scales a and b. Of
    the shift of the tiles, what counts is borne out by following what moves, see light.agreed.
    """
    flattening = np.exp2(np.minimum(contrast_drift(shots), 0))[:, None]
    lab = cielab(shots.series.tiles)
    before = lab - shots.drift(lab)
    shift = shared_by_the_picture(_unexplained(lab, before, flattening))
    tiles = shots.series.tiles.mean(axis=1, keepdims=True)
    without_drift = cielab((tiles - shots.light_drift()[:, None]).clip(0, 1))
    followed = _unexplained(cielab(tiles), without_drift, flattening)[:, 0]
    length = np.linalg.norm(shift, axis=1)
    along = (shift * followed).sum(axis=1) / np.maximum(length, JUST_NOTICEABLE)
    return agreed(length, along)


def _unexplained(lab: np.ndarray, before: np.ndarray, flattening: np.ndarray) -> np.ndarray:
    """[F, K, Lab] twice to [F, K, ab]: the shift beyond what the change of light, and of contrast [F, 1], explains."""
    gain = (lab[..., 0] + 16) / (before[..., 0] + 16).clip(1.0)
    return lab[..., 1:] - (gain * flattening)[..., None] * before[..., 1:]
