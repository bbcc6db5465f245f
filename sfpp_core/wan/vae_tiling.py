"""Decoding in tiles, where a whole picture is too much for the device's memory: overlapping, joined without seams.

Sizes are in latents, sides of 8 pixels. Axes: B batch, C channels, F pixel frames, T latent frames, H height, W width,
as in vae.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Final

import torch
from torch import Tensor

from .vae import DecodeStream, WanVAE

OVERLAP: Final = 8
"""Of neighbours: 64 pixels. In the middle half, one fades into the other; outside of it, near its rim, where it lacks
what lies beyond, a tile does not count. Measured on the built-in decoder, that is nearer to the whole picture than a
fade over all of it."""

MIN_SIDE: Final = 24
"""Of a tile: most of a smaller one would be overlap."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiling:
    """A grid of tiles, equal in size, over a picture of `height` x `width` latents; 1 x 1 is the picture whole."""

    height: int
    width: int
    rows: int = 1
    columns: int = 1

    def __post_init__(self) -> None:
        for name, side, count in (("rows", self.height, self.rows), ("columns", self.width, self.columns)):
            if count < 1 or (count > 1 and _length(side, count) < MIN_SIDE):
                raise ValueError(
                    f"{name} is {count}; of {side} latents that leaves tiles below {MIN_SIDE}, or none. Take fewer."
                )

    @property
    def tile_size(self) -> tuple[int, int]:
        """Height and width of every tile."""
        return _length(self.height, self.rows), _length(self.width, self.columns)

    @property
    def num_tiles(self) -> int:
        return self.rows * self.columns

    def finer(self) -> Tiling | None:
        """The next finer grid: the longer side of the tiles is cut once more. None if that makes tiles too small."""
        height, width = self.tile_size
        taller = {"rows": self.rows + 1} if height > width else {"columns": self.columns + 1}
        try:
            return replace(self, **taller)
        except ValueError:
            return None

    def row_starts(self) -> list[int]:
        """Return where each row of tiles begins."""
        return _starts(self.height, self.rows)

    def column_starts(self) -> list[int]:
        """Return where each column of tiles begins."""
        return _starts(self.width, self.columns)


def fade_weights(starts: list[int], length: int, *, scale: int) -> list[Tensor]:
    """Return how much each of the tiles along one side counts at each of its places, float32 in [0, 1].

    Wherever tiles overlap, their weights sum to 1; elsewhere a weight is exactly 1. None jumps.

    Args:
        starts, length: of the tiles; only neighbours may overlap.
        scale: places per unit of these.
    """
    weights = [torch.ones(length * scale) for _ in starts]
    for index, start in enumerate(starts[1:]):
        overlap = (starts[index] + length - start) * scale
        rising = (2 * (torch.arange(overlap) + 0.5) / overlap - 0.5).clamp(0, 1)
        weights[index][-overlap:] = 1 - rising
        weights[index + 1][:overlap] = rising
    return weights


def _length(side: int, count: int) -> int:
    return ceil((side + (count - 1) * OVERLAP) / count)


def _starts(side: int, count: int) -> list[int]:
    if count == 1:
        return [0]
    return [index * (side - _length(side, count)) // (count - 1) for index in range(count)]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tile:
    stream: DecodeStream
    rows: slice
    columns: slice
    weight: Tensor
    """1 at the places that no other tile shows; H W in pixels."""


class TiledDecodeStream:
    """A `DecodeStream` tile by tile; every tile is a video of its own, which goes on from piece to piece.

    The device holds the layers' activations and past of one tile at a time; the past of the others waits in CPU memory.
    Pictures differ from those decoded whole: a tile sees no more than itself, and near its rim other tiles fade in. So
    a video that has begun whole should not go on in tiles.
    """

    def __init__(self, vae: WanVAE, tiling: Tiling) -> None:
        scale = vae.config.spatial_stride
        self._tiling = tiling
        self._scale = scale
        height, width = tiling.tile_size
        self._tiles = [
            _Tile(
                stream=DecodeStream(vae),
                rows=slice(top, top + height),
                columns=slice(left, left + width),
                weight=row_weight[:, None] * column_weight,
            )
            for top, row_weight in zip(
                tiling.row_starts(), fade_weights(tiling.row_starts(), height, scale=scale), strict=True
            )
            for left, column_weight in zip(
                tiling.column_starts(), fade_weights(tiling.column_starts(), width, scale=scale), strict=True
            )
        ]

    @torch.no_grad()
    def push(self, latents: Tensor) -> Tensor:
        """The next latents, B C T H/8 W/8, to their pixels, B 3 F H W in [-1, 1], float32 on the CPU.

        Raises:
            ValueError: the latents are of another size than the tiling, or as `DecodeStream.push`.
            RuntimeError: as `DecodeStream.push`.
        """
        expected = (self._tiling.height, self._tiling.width)
        if tuple(latents.shape[-2:]) != expected:
            raise ValueError(f"the latents are {tuple(latents.shape[-2:])} in size; the tiles are for {expected}")
        picture: Tensor | None = None
        for tile in self._tiles:
            tile.stream.keep_past_on(latents.device)
            pixels = tile.stream.push(latents[..., tile.rows, tile.columns]).float().cpu()
            tile.stream.keep_past_on(torch.device("cpu"))
            if picture is None:
                height, width = (side * self._scale for side in expected)
                picture = pixels.new_zeros(*pixels.shape[:3], height, width)
            picture[..., self._in_pixels(tile.rows), self._in_pixels(tile.columns)] += tile.weight * pixels
        return picture

    def _in_pixels(self, place: slice) -> slice:
        return slice(place.start * self._scale, place.stop * self._scale)
