"""Stops, rests and loops on made-up series: what is damage, and what a video may do."""

from __future__ import annotations

import numpy as np
import pytest

from sfpp_core.stability.offline.detectors import freeze
from sfpp_core.stability.offline.loops import find_loops
from sfpp_core.stability.offline.shots import Shots
from tests.helpers.measured import RATE, THUMBNAIL, series

LEVEL = 1 / 255


def severity(*changes: np.ndarray | float) -> np.ndarray:
    """Of a video whose change from frame to frame, in grey levels, is given for spans of two seconds or as it is."""
    levels = [np.full(2 * RATE, change) if np.isscalar(change) else change for change in changes]
    difference = np.concatenate(levels) * LEVEL
    return freeze(Shots.of(series(len(difference), difference=difference)))


def test_motion_that_stops_is_a_freeze_and_a_still_video_is_none() -> None:
    stopped = severity(0.6, 0.6, 0.0, 0.6)
    assert stopped[4 * RATE : 6 * RATE] == pytest.approx(0.85)
    assert not stopped[: 4 * RATE].any() and not stopped[6 * RATE :].any()
    assert not severity(0.0, 0.0, 0.0, 0.0).any()


@pytest.mark.parametrize("seconds", [0.5, 1.0])
def test_what_leaves_the_picture_slowly_is_no_freeze(seconds: float) -> None:
    """Its part of the change goes with it, frame by frame; a rest of less than two seconds is pardoned."""
    uneven = np.tile((0.4, 0.8), 2 * RATE)
    leaving = np.linspace(0.8, 0.0, int(seconds * RATE))
    assert not severity(uneven, leaving, np.zeros(RATE)).any()


def test_motion_that_is_held_for_three_frames_can_freeze() -> None:
    drawn = np.tile((0.0, 0.0, 1.2), RATE)
    found = severity(drawn, drawn, 0.0)
    assert found[-2 * RATE :].min() > 0.8 and not found[: -2 * RATE - 2].any()


def test_a_video_that_comes_to_rest_for_good_is_damaged_a_little_more_the_longer_it_rests() -> None:
    dying = np.linspace(0.6, 0.0, 3 * RATE)
    worst = [severity(0.6, 0.6, dying, np.zeros(seconds * RATE)).max() for seconds in (1, 3, 4, 8, 30)]
    assert worst[0] == 0 and worst[-1] == pytest.approx(0.35)
    assert worst == sorted(worst) and worst[1] < worst[2] < worst[3]


def test_slow_motion_is_no_rest() -> None:
    assert not severity(2.0, 2.0, np.linspace(2.0, 0.3, RATE), *[0.3] * 4).any()


def returning(frames: np.ndarray, period: int) -> np.ndarray:
    """Thumbnails of waves that come back to where they were after `period` frames, at the given frames."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[: THUMBNAIL[0], : THUMBNAIL[1]]
    turns = 2 * np.pi * frames[:, None, None] / period
    waves = [
        np.sin(fx * columns + fy * rows + number * turns + phase)
        for number, (fx, fy, phase) in enumerate(rng.uniform((-0.5, -0.5, 0), (0.5, 0.5, 6), (3, 3)), start=1)
    ]
    return np.clip(128 + 22 * sum(waves), 0, 255).astype(np.uint8)


def loops_of(frames: np.ndarray, period: int = 40) -> list[tuple[int, int]]:
    thumbnails = returning(frames, period)
    return [(loop.first, loop.last) for loop in find_loops(series(len(thumbnails), thumbnails=thumbnails))]


def test_a_cut_in_periodic_motion_is_no_loop() -> None:
    assert loops_of(np.arange(160)) == []
    assert loops_of(np.concatenate((np.arange(100), np.arange(115, 200)))) == []
    assert loops_of(np.concatenate((np.arange(100), np.arange(115, 150), np.arange(163, 240)))) == []


def test_a_stretch_of_periodic_motion_that_comes_again_and_again_is_a_loop() -> None:
    ((first, last),) = loops_of(np.concatenate((np.arange(100), np.tile(np.arange(75, 100), 3))))
    assert (first, last) == pytest.approx((100, 175), abs=2)
