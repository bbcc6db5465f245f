"""Pictures decoded in tiles: laid together without seams and near to the whole."""

from __future__ import annotations

import pytest
import torch

from sfpp_core.tiny.family import load_vae
from sfpp_core.wan.vae import DecodeStream
from sfpp_core.wan.vae_tiling import MIN_SIDE, OVERLAP, TiledDecodeStream, Tiling, fade_weights
from tests.helpers.vae_models import random_vae


def grids(height: int, width: int) -> list[Tiling]:
    """A picture whole, and in ever finer tiles, as long as there are any."""
    found = [Tiling(height=height, width=width)]
    while finer := found[-1].finer():
        found.append(finer)
    return found


@pytest.mark.parametrize("size", ((60, 104), (90, 160), (45, 80), (33, 57), (24, 300)))
def test_tiles_cover_the_picture_and_overlap_with_their_neighbours_only(size: tuple[int, int]) -> None:
    tilings = grids(*size)
    areas = [tiling.tile_size[0] * tiling.tile_size[1] for tiling in tilings]
    assert len(tilings) > 1 and areas == sorted(areas, reverse=True) and len(set(areas)) == len(areas)
    for tiling in tilings[1:]:
        for side, length, starts in zip(
            size, tiling.tile_size, (tiling.row_starts(), tiling.column_starts()), strict=True
        ):
            assert starts[0] == 0 and starts[-1] + length == side
            for index, start in enumerate(starts[1:]):
                assert starts[index] + length - start >= OVERLAP - 1
            for index, start in enumerate(starts[2:]):
                assert starts[index] + length <= start


@pytest.mark.parametrize("tiling", grids(60, 104), ids=lambda tiling: f"{tiling.rows}x{tiling.columns}")
def test_what_the_tiles_show_adds_up_to_one_picture(tiling: Tiling) -> None:
    (height, width), scale = tiling.tile_size, 8
    total = torch.zeros(60 * scale, 104 * scale)
    rows = zip(tiling.row_starts(), fade_weights(tiling.row_starts(), height, scale=scale), strict=True)
    for top, row_weight in rows:
        columns = fade_weights(tiling.column_starts(), width, scale=scale)
        for left, weight in zip(tiling.column_starts(), columns, strict=True):
            place = total[top * scale :, left * scale :][: height * scale, : width * scale]
            place += row_weight[:, None] * weight
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-6)


def test_tiles_fade_into_each_other_and_their_rims_do_not_count() -> None:
    tiling, scale = Tiling(height=60, width=104, columns=3), 8
    weights = fade_weights(tiling.column_starts(), tiling.tile_size[1], scale=scale)
    for weight in weights:
        assert weight.diff().abs().max() <= 2 / ((OVERLAP - 1) * scale)
    rim = (OVERLAP - 1) * scale // 4
    assert not weights[0][-rim:].any() and not weights[1][:rim].any() and weights[0][:-64].eq(1).all()


def test_a_picture_in_one_tile_is_the_picture() -> None:
    vae = random_vae()
    latents = torch.randn(1, 16, 4, 4, 6, generator=torch.Generator().manual_seed(2))
    tiled = TiledDecodeStream(vae, Tiling(height=4, width=6))
    pieces = torch.cat([tiled.push(piece) for piece in latents.split((1, 2, 1), dim=2)], dim=2)
    assert torch.equal(pieces, vae.decode(latents))


def test_a_video_in_tiles_is_near_to_the_whole_and_goes_on_from_piece_to_piece() -> None:
    """With the trained decoder of the built-in family, and a smooth picture far larger than it was made for."""
    vae = load_vae()
    generator = torch.Generator().manual_seed(2)
    small = torch.randn(1, 16, 2, 5, 5, generator=generator)
    latents = torch.nn.functional.interpolate(small, size=(2, 40, 40), mode="trilinear")
    tiling = Tiling(height=40, width=40, rows=2, columns=2)
    whole, tiled, at_once = DecodeStream(vae), TiledDecodeStream(vae, tiling), TiledDecodeStream(vae, tiling)
    pieces = torch.cat([tiled.push(latent) for latent in latents.split(1, dim=2)], dim=2)
    assert torch.equal(pieces, at_once.push(latents))
    differences = (pieces - whole.push(latents)).abs()
    assert differences.mean() < 0.01 and differences.flatten().kthvalue(round(0.999 * differences.numel()))[0] < 0.15


def test_tiles_too_small_to_be_of_use_are_refused() -> None:
    assert Tiling(height=8, width=8).finer() is None
    with pytest.raises(ValueError, match=f"columns is 3; of 40 latents that leaves tiles below {MIN_SIDE}"):
        Tiling(height=40, width=40, columns=3)
    with pytest.raises(ValueError, match="rows is 0"):
        Tiling(height=40, width=40, rows=0)


def test_latents_of_another_size_are_refused() -> None:
    stream = TiledDecodeStream(random_vae(), Tiling(height=4, width=6))
    with pytest.raises(ValueError, match=r"\(6, 4\) in size; the tiles are for \(4, 6\)"):
        stream.push(torch.zeros(1, 16, 1, 6, 4))
