"""A video at another rate: each tick shows what is in view then."""

from __future__ import annotations

import numpy as np
import pytest

from sfpp_core.video.reader import shown_at


def shown(rate: float, num_pictures: int, *, start: float, count: int, jitter: float = 0.0) -> list[int]:
    pictures = ((index / rate + jitter * (index > 0), np.array(index)) for index in range(num_pictures))
    return [int(picture) for picture in shown_at(pictures, start, 16.0, count)]


@pytest.mark.parametrize("jitter", [0.0, 9e-4, -9e-4])
def test_its_own_rate_gives_every_picture_once(jitter: float) -> None:
    assert shown(16, 10, start=0.0, count=10, jitter=jitter) == list(range(10))
    assert shown(16, 10, start=5 / 16, count=5, jitter=jitter) == [5, 6, 7, 8, 9]


def test_a_faster_video_loses_pictures_and_a_slower_one_shows_them_longer() -> None:
    assert shown(24, 12, start=0.0, count=8) == [0, 1, 3, 4, 6, 7, 9, 10]
    assert shown(8, 4, start=0.0, count=8) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert shown(0.5, 3, start=1.9375, count=3) == [0, 1, 1]


def test_the_last_picture_stays_and_nothing_comes_of_nothing() -> None:
    assert shown(16, 3, start=0.0, count=5) == [0, 1, 2, 2, 2]
    assert shown(16, 0, start=0.0, count=5) == []
