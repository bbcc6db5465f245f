"""Seconds become the shortest run of whole chunks that lasts at least as long."""

from __future__ import annotations

import pytest

from sfpp_core.rollout.config import RolloutConfig, video_length
from sfpp_core.wan.config import FRAMES_PER_SECOND


@pytest.mark.parametrize("chunk", (1, 3, 5))
@pytest.mark.parametrize("made", (0, 1, 12))
def test_it_is_the_shortest_that_lasts_long_enough(chunk: int, made: int):
    for tenths in range(1, 200):
        seconds = tenths / 10
        length = video_length(seconds, RolloutConfig(chunk=chunk), made=made)
        one_less = length.pixel_frames - 4 * chunk
        assert length.pixel_frames >= seconds * FRAMES_PER_SECOND > one_less or length.num_chunks == 1


@pytest.mark.parametrize("num_chunks", (1, 2, 7, 81, 341))
def test_a_valid_length_is_kept(num_chunks: int):
    frames = 12 * num_chunks - 3
    length = video_length(frames / FRAMES_PER_SECOND, RolloutConfig(), made=0)
    assert (length.num_chunks, length.pixel_frames) == (num_chunks, frames)
    assert "rounded" not in str(length)


@pytest.mark.parametrize("made", (3, 21, 3000))
def test_an_addition_counts_no_single_first_frame(made: int):
    length = video_length(12 / FRAMES_PER_SECOND, RolloutConfig(), made=made)
    assert (length.num_chunks, length.pixel_frames) == (1, 12)


def test_a_first_frame_of_its_own_is_a_chunk():
    length = video_length(13 / FRAMES_PER_SECOND, RolloutConfig(independent_first=True), made=0)
    assert (length.num_chunks, length.pixel_frames) == (2, 13)


def test_rounding_is_said():
    assert str(video_length(60.0, RolloutConfig(), made=0)) == "969 frames, 60.56 s, rounded up from 60 s"


@pytest.mark.parametrize("seconds", (0.0, -1.0, float("nan"), float("inf")))
def test_no_video_is_refused(seconds: float):
    with pytest.raises(ValueError, match="seconds is"):
        video_length(seconds, RolloutConfig(), made=0)
