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
# Blurs of one and two pixels: what the first takes away is the finest detail, what the second takes away the next.
_FINE_SIGMA, _COARSE_SIGMA = 1.0, 2.0
# A hundredth of a grey level: nothing is divided by zero in a plain picture.
_LEAST_ENERGY: Final = 1e-4


def detail(grey: np.ndarray) -> tuple[float, float]:
    """Sharpness and noise of a picture, uint8 H W.

    Noise: the root mean square of what a 3 x 3 median takes away, of the blocks of an 8 x 8 grid the one at the 35th
    percentile, as a part of the range 0..1. A median leaves edges alone, and takes impulses as well as grain.

    Sharpness: of what the median left, the energy of the finest detail divided by that of the next coarser octave, as a
    root; the median over the half of the blocks with the most of the latter. Brightness, contrast and empty areas
    cancel out, and an edge has the same ratio whatever its height; blur lowers it, most of all the first pixel of it.
    """
    smooth = cv2.medianBlur(grey, 3)
    noise = np.percentile(_block_energies(cv2.absdiff(grey, smooth).astype(np.float32)), _QUIET_PERCENTILE)
    fine = cv2.GaussianBlur(smooth.astype(np.float32), (0, 0), _FINE_SIGMA)
    coarse = cv2.GaussianBlur(fine, (0, 0), _COARSE_SIGMA)
    finest, next_coarser = _block_energies(smooth - fine), _block_energies(fine - coarse)
    edges = next_coarser >= np.median(next_coarser)
    ratio = np.median(finest[edges] / np.maximum(next_coarser[edges], _LEAST_ENERGY))
    return float(np.sqrt(ratio)), float(np.sqrt(noise)) / 255


def _block_energies(values: np.ndarray) -> np.ndarray:
    """Mean square in each block."""
    return cv2.resize(cv2.multiply(values, values), _BLOCKS, interpolation=cv2.INTER_AREA)
