"""CIELAB, in which distances are about as large as the eye sees them. Axis: C colours (RGB, or L, a, b)."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

JUST_NOTICEABLE: Final = 2.3
"""The CIELAB difference of two colours that a person just sees side by side (Mahy et al., 1994)."""

# IEC 61966-2-1, annex; the rows' sums are its white, D65.
_SRGB_TO_XYZ: Final = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def cielab(rgb: NDArray[np.floating]) -> NDArray[np.float64]:
    """L (0..100), a and b (CIE 15:2004, 8.2.1) of sRGB display values in 0..1: [..., C] to [..., C].

    Not OpenCV's conversion, which goes through a table and is off by up to 0.6.
    """
    light = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = light @ (_SRGB_TO_XYZ.T / _SRGB_TO_XYZ.sum(axis=1))
    x, y, z = np.moveaxis(np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29), -1, 0)
    return np.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), axis=-1)
