"""CIELAB by its definition."""

from __future__ import annotations

import numpy as np
import pytest

from sfpp_core.stability.measure import cielab


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
    ],
)
def test_the_primaries_of_srgb_are_where_tables_put_them(rgb: tuple, expected: tuple) -> None:
    assert cielab(np.array(rgb, np.float64)) == pytest.approx(expected, abs=0.05)


def test_greys_have_no_colour_and_white_is_100() -> None:
    greys = cielab(np.repeat(np.linspace(0, 1, 33)[:, None], 3, axis=1))
    assert np.abs(greys[:, 1:]).max() < 1e-10
    assert greys[0, 0] == pytest.approx(0) and greys[-1, 0] == pytest.approx(100)
    assert (np.diff(greys[:, 0]) > 0).all()
