"""Sharpness and noise of a grey picture, each as blind to the other and to brightness and contrast as can be.

Axes: H height, W width.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

_BLOCKS: Final = (8, 8)
# Quiet blocks show noise; the quietest of all may be bars, or sky that is clipped, and show nothing.
_QUIET_PERCENTILE: Final = 35
# Blurs, in pixels: what the first takes away is the finest detail; what the third takes from the second, the shapes.
_FINE_SIGMA, _MIDDLE_SIGMA, _COARSE_SIGMA = 1.0, 2.0, 4.0
# Mean square in grey levels that rounding to whole ones leaves (1/12), most of it finest detail.
_ROUNDING: Final = 1 / 12
_LEAST_ENERGY: Final = 1e-2


def detail(grey: np.ndarray) -> tuple[float, float]:
    """Sharpness and noise of a picture, uint8 H W.

    Noise: the root mean square of what a 3 x 3 median takes away, of the blocks of an 8 x 8 grid the one at the 35th
    percentile, as a part of the range 0..1. A median leaves edges alone, and takes impulses as well as grain.

    Sharpness: of what the median left, the energy of the finest detail divided by that of details of four times the
    size, as a root; the median over the half of the blocks with the most of the latter. Brightness, contrast and empty
    areas cancel out, and an edge has the same ratio whatever its height; blur lowers it.
    """
    smooth = cv2.medianBlur(grey, 3)
    noise = np.percentile(_block_energies(cv2.absdiff(grey, smooth).astype(np.float32)), _QUIET_PERCENTILE)
    fine = cv2.GaussianBlur(smooth.astype(np.float32), (0, 0), _FINE_SIGMA)
    middle = cv2.GaussianBlur(fine, (0, 0), _MIDDLE_SIGMA)
    coarse = cv2.GaussianBlur(middle, (0, 0), _COARSE_SIGMA)
    finest, shapes = _block_energies(smooth - fine) - _ROUNDING, _block_energies(middle - coarse)
    edges = shapes >= np.median(shapes)
    ratio = np.median(finest[edges].clip(0.0) / np.maximum(shapes[edges], _LEAST_ENERGY))
    return float(np.sqrt(ratio)), float(np.sqrt(noise)) / 255


def _block_energies(values: np.ndarray) -> np.ndarray:
    """Mean square in each block."""
    return cv2.resize(cv2.multiply(values, values), _BLOCKS, interpolation=cv2.INTER_AREA)
