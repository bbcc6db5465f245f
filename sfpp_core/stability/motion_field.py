"""Optical flow from one frame to the next, with OpenCV's DIS.

Dense inverse search (Kroeger et al., arXiv 1603.03590): no network and no weights, and fast on a CPU. VBench and the
paper used RAFT, which is a network; lengths of the two agree where there is texture, and DIS sees less motion in plain
areas.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

_TOP_SHARE: Final = 0.05
# Patches are 8 pixels wide and the coarsest pictures smaller by far; below this size nothing is left to compare.
_LEAST_SIDE: Final = 48


class MotionField:
    """Compares each picture with the one that it was given before."""

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        # Full resolution of the reduced picture: the objects of small films are a few pixels wide.
        self._flow.setFinestScale(1)
        self._before: np.ndarray | None = None

    def speeds(self, grey: np.ndarray, seconds: float) -> tuple[float, float]:
        """Mean speed, and mean of the fastest 5 %, in picture heights a second; zeros for the first picture.

        grey: uint8 H W, always of the same size. seconds: since the picture before.
        """
        scale = max(1.0, _LEAST_SIDE / min(grey.shape))
        if scale > 1:
            grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        before, self._before = self._before, grey
        if before is None:
            return 0.0, 0.0
        flow = self._flow.calc(before, grey, None)
        lengths = np.sqrt((flow * flow).sum(axis=2)).ravel() / (grey.shape[0] * seconds)
        top = max(1, int(_TOP_SHARE * lengths.size))
        return float(lengths.mean()), float(np.partition(lengths, -top)[-top:].mean())
