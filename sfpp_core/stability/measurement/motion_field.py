"""Optical flow from one frame to the next, with OpenCV's DIS, and how the light changed on what moved.

Dense inverse search (Kroeger et al., arXiv 1603.03590): no network and no weights, and fast on a CPU. VBench and the
paper used RAFT, which is a network; lengths of the two agree where there is texture, and DIS sees less motion in plain
areas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

_TOP_SHARE: Final = 0.05
# Patches are 8 pixels wide and the coarsest pictures smaller by far; below this size nothing is left to compare.
_LEAST_SIDE: Final = 48
# What differs by more than this from how most of the picture changed was covered, or was not found again.
_OTHER_THING: Final = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What happened from one picture to the next."""

    flow: float
    """Mean speed in picture heights a second."""
    flow_top: float
    """Mean of the fastest 5 %."""
    light_change: np.ndarray
    """[C] change of the mean colour of what is in both pictures, wherever it moved; 0..1 is the whole range."""


class MotionField:
    """Compares each picture with the one that it was given before."""

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        # Half of the resolution and not a quarter: the objects of small films are a few pixels wide.
        self._flow.setFinestScale(1)
        self._before: np.ndarray | None = None
        self._grey_before: np.ndarray | None = None

    def step(self, picture: np.ndarray, seconds: float) -> Step:
        """What happened since the picture before; all zeros for the first.

        picture: uint8 H W C, always of the same size. seconds: since the picture before.
        """
        scale = max(1.0, _LEAST_SIDE / min(picture.shape[:2]))
        if scale > 1:
            picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        before, grey_before = self._before, self._grey_before
        self._before, self._grey_before = picture, grey
        if before is None or grey_before is None:
            return Step(flow=0.0, flow_top=0.0, light_change=np.zeros(3))
        # From here back to where it came from, so that each pixel of this picture finds its own past.
        flow = self._flow.calc(grey, grey_before, None)
        lengths = np.sqrt((flow * flow).sum(axis=2)).ravel() / (grey.shape[0] * seconds)
        top = max(1, int(_TOP_SHARE * lengths.size))
        return Step(
            flow=float(lengths.mean()),
            flow_top=float(np.partition(lengths, -top)[-top:].mean()),
            light_change=_light_change(before, picture, flow),
        )


def _light_change(before: np.ndarray, picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """[C] mean difference of a picture, H W C, from what was before where the flow, H W 2, leads."""
    height, width = flow.shape[:2]
    columns = flow[..., 0] + np.arange(width, dtype=np.float32)
    rows = flow[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    past = cv2.remap(before.astype(np.float32), columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    known = (columns >= 0) & (columns <= width - 1) & (rows >= 0) & (rows <= height - 1)
    if not known.any():
        return np.zeros(3)
    change = (picture.astype(np.float32) - past)[known] / 255
    usual = np.median(change, axis=0)
    return usual + np.clip(change - usual, -_OTHER_THING, _OTHER_THING).mean(axis=0)
