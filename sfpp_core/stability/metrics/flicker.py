"""How much a video flickers. Axis: F frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..measurement.series import FrameSeries


def flicker_score(series: FrameSeries) -> float:
    """VBench's temporal flickering, 0 to 1, where 1 is a picture that never changes: (255 - MAE) / 255.

    MAE is the mean absolute difference of neighbouring frames (vbench/temporal_flickering.py). Differs: of luma and not
    of the three colours, and between frames sampled at 16 per second at most. VBench takes it of still scenes only, for
    it cannot tell motion from flicker; `brightness_flicker` can.
    """
    return 1.0 - float(series.difference[1:].mean())


def brightness_flicker(series: FrameSeries) -> NDArray[np.float64]:
    """How far the mean luma of each frame is off the line between its neighbours: [F], display values 0 to 1.

    Our own definition. Motion moves light about within a frame and changes its mean smoothly, and so do drifts and
    fades, which follow the line; what is left is brightness that goes up and down from frame to frame. Where the video
    has frames between the sampled ones, half of how far they swing counts if that is more. It does not see flicker that
    averages out over the picture. A cut adds half its step on either side.
    """
    off = series.swing / 2
    if len(series) > 2:
        before, now, after = series.time[:-2], series.time[1:-1], series.time[2:]
        share = (now - before) / (after - before)
        line = (1 - share) * series.luminance[:-2] + share * series.luminance[2:]
        off[1:-1] = np.maximum(off[1:-1], np.abs(series.luminance[1:-1] - line))
    return off
