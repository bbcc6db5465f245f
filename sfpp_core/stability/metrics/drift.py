"""How far a video has gone from how it looked in its first seconds. Axis: F frames."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..measurement.cielab import cielab
from ..measurement.series import FrameSeries

REFERENCE_SECONDS: Final = 2.0
"""What a video is compared with: a few-step model has not drifted yet in its first chunks (0.75 s each)."""
LEAST_REFERENCE: Final = 1 / 255
"""The smallest value that a ratio is taken to: a start below it, one grey level for contrast, is an empty picture."""


def exposure_drift(series: FrameSeries) -> NDArray[np.float64]:
    """Mean luma minus that of the first seconds: [F], display values; above 0 is brighter."""
    return series.luminance - _reference(series, series.luminance)


def color_drift(series: FrameSeries) -> NDArray[np.float64]:
    """How far the mean colour has moved from that of the first seconds: [F], in units of CIELAB, exposure left out.

    The CIE 1976 colour difference without its lightness, sqrt(da^2 + db^2), so that a film that only gets brighter has
    little of it. The channel means are means of display values: their colour stands for the picture's cast and is no
    mean of what each pixel looks like.
    """
    lab = cielab(np.stack((series.red, series.green, series.blue), axis=-1))
    return np.hypot(*(axis - _reference(series, axis) for axis in (lab[:, 1], lab[:, 2])))


def relative(series: FrameSeries, values: NDArray[np.floating]) -> NDArray[np.float64]:
    """`values` [F], such as the contrast, as multiples of what they were in the first seconds: [F]."""
    return values / max(_reference(series, values), LEAST_REFERENCE)


def _reference(series: FrameSeries, values: NDArray[np.floating]) -> float:
    """The median over the first seconds: a flash among them does not move it."""
    return float(np.median(values[series.time - series.time[0] < REFERENCE_SECONDS]))
