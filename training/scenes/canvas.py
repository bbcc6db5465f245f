"""Antialiased painting with signed distances.

Axes: F frame, H row, W column. Coordinates are picture heights from the upper left corner, y downwards, at pixel
centres. Whatever depends on the frame uses only + - * / sqrt, abs, min, max and floor: these round alike wherever an
element lies in a vector register, so a frame has the same bits in whatever batch of frames it is rendered.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RGB = tuple[float, float, float]
EDGE_PIXELS = 1.25
"""Width of an antialiased edge: a little soft, so that slow motion shows within a pixel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Pixel centres of a picture, or of a rectangle of it."""

    x: Tensor
    """[1, W] in (0, aspect)."""
    y: Tensor
    """[H, 1] in (0, 1)."""
    rows: int
    """Pixels to a picture height."""
    aspect: float
    """Width of the picture in picture heights."""

    @staticmethod
    def of(height: int, width: int) -> Grid:
        x = ((torch.arange(width, dtype=torch.float64) + 0.5) / height).to(torch.float32)
        y = ((torch.arange(height, dtype=torch.float64) + 0.5) / height).to(torch.float32)
        return Grid(x=x[None, :], y=y[:, None], rows=height, aspect=width / height)


def coverage(distance: Tensor, rows: int, soft: float = EDGE_PIXELS) -> Tensor:
    """Share of each pixel inside a shape, [0, 1]: distance is negative inside, in picture heights; `soft` in pixels."""
    return (0.5 - distance * (rows / soft)).clamp(0, 1)


def smooth(edge0: float, edge1: float, value: Tensor) -> Tensor:
    """Cubic step from 0 at edge0 to 1 at edge1."""
    t = ((value - edge0) / (edge1 - edge0)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def colour(rgb: RGB) -> Tensor:
    """[3, 1, 1], to broadcast over a picture."""
    return torch.tensor(rgb, dtype=torch.float32)[:, None, None]


def blend(below: Tensor, above: Tensor | RGB, alpha: Tensor) -> Tensor:
    """`above` over `below` [3, H, W], with alpha [H, W]."""
    return below + alpha * ((above if isinstance(above, Tensor) else colour(above)) - below)


def develop(scene: Tensor, exposure: float, tint: float) -> Tensor:
    """Scene light [3, ...] to display values in [0, 1): white balance, exposure, and a curve that never clips.

    The curve is x / (1 + x^4)^(1/4): linear in the shadows, so that exposure is a gain there, and below 1 everywhere.
    """
    gains = torch.tensor([1 + 0.16 * tint, 1.0, 1 - 0.16 * tint]).mul(exposure)
    light = scene * gains.reshape(3, *[1] * (scene.ndim - 1))
    squared = light * light
    return light / (1 + squared * squared).sqrt().sqrt()
