"""How far a video has gone from how it looked in its first seconds. Axis: F frames."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..measurement.series import FrameSeries

REFERENCE_SECONDS: Final = 2.0
"""What a video is compared with: a few-step model has not drifted yet in its first chunks (0.75 s each)."""
LEAST_REFERENCE: Final = 1 / 255
"""The smallest value that a ratio is taken to: a start below it, one grey level for contrast, is an empty picture."""
JUST_NOTICEABLE: Final = 2.3
"""The CIELAB difference of two colours that a person just sees side by side (Mahy et al., 1994)."""

# IEC 61966-2-1, annex; the rows' sums are its white, D65.
_SRGB_TO_XYZ: Final = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def exposure_drift(series: FrameSeries) -> NDArray[np.float64]:
    """Mean luma minus that of the first seconds: [F], display values; above 0 is brighter."""
    return series.luminance - _reference(series, series.luminance)


def color_drift(series: FrameSeries) -> NDArray[np.float64]:
    """How far the mean colour has moved from that of the first seconds: [F], in units of CIELAB, exposure left out.

    The CIE 1976 colour difference without its lightness, sqrt(da^2 + db^2), so that a film that only gets brighter has
    little of it. The channel means are means of display values: their colour stands for the picture's cast and is no
    mean of what each pixel looks like.
    """
    green_red, blue_yellow = _chromaticity(np.stack((series.red, series.green, series.blue), axis=-1))
    return np.hypot(green_red - _reference(series, green_red), blue_yellow - _reference(series, blue_yellow))


def relative(series: FrameSeries, values: NDArray[np.floating]) -> NDArray[np.float64]:
    """`values` [F], such as the contrast, as multiples of what they were in the first seconds: [F]."""
    return values / max(_reference(series, values), LEAST_REFERENCE)


def _chromaticity(rgb: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """a and b of CIELAB (CIE 15:2004, 8.2.1) for sRGB display values [F, 3]: [F] each.

    Not OpenCV's conversion, which goes through a table and is off by up to 0.3.
    """
    light = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4).astype(np.float64)
    x, y, z = (light @ _SRGB_TO_XYZ.T / _SRGB_TO_XYZ.sum(axis=1)).T
    x, y, z = (np.where(axis > (6 / 29) ** 3, np.cbrt(axis), axis / (3 * (6 / 29) ** 2) + 4 / 29) for axis in (x, y, z))
    return 500 * (x - y), 200 * (y - z)


def _reference(series: FrameSeries, values: NDArray[np.floating]) -> float:
    """The median over the first seconds: a flash among them does not move it."""
    return float(np.median(values[series.time - series.time[0] < REFERENCE_SECONDS]))
