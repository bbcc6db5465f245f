"""Latents to pixels in tiles, where a whole picture is too much for the device's memory.

Axes: B batch, C channels, F pixel frames, T latent frames, H height, W width, as in vae.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .tiling import Tiling, fade_weights
from .vae import DecodeStream, WanVAE


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tile:
    stream: DecodeStream
    rows: slice
    columns: slice
    weight: Tensor
    """1 at the places that no other tile shows; H W in pixels."""


class TiledDecodeStream:
    """What `DecodeStream` does, tile by tile; every tile is a video of its own, which goes on from piece to piece.

    The device holds the layers' activations and past of one tile at a time; the past of the others waits in CPU memory.
    Pictures differ from those decoded whole: a tile sees no more than itself, and near its rim other tiles fade in. So
    a film that has begun whole should not go on in tiles.
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
