"""The metrics of long videos mean what their definitions say, on series whose answer is known."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from sfpp_core.stability.metrics import (
    DYNAMIC_SPEED,
    LongVideoMetrics,
    brightness_flicker,
    closest_repetition,
    color_drift,
    dynamic_windows,
    exposure_drift,
    flicker_score,
    flow_spikes,
    flow_variances,
    frozen_spans,
    relative,
)
from tests.helpers.measured import RATE, series, wandering


def test_a_window_is_dynamic_if_a_quarter_of_its_pairs_is_fast() -> None:
    fast = np.zeros(4 * 2 * RATE)
    for window, num_fast in enumerate((0, 7, 8, 32)):
        fast[32 * window : 32 * window + num_fast] = 1.01 * DYNAMIC_SPEED
    fast[0] = 9.0
    assert dynamic_windows(series(len(fast), flow_top=fast)).tolist() == [False, False, True, True]


def test_vbench_threshold_grows_with_the_short_side() -> None:
    """6 pixels of 256 between frames 1/8 s apart; a tall picture is taller than its short side."""
    assert 256 * DYNAMIC_SPEED / 8 == 6
    tall = np.full((64, 36, 18), 128, np.uint8)
    speed = 0.6 * DYNAMIC_SPEED
    assert dynamic_windows(series(64, flow_top=speed, thumbnails=tall)).all()
    assert not dynamic_windows(series(64, flow_top=speed)).any()


def test_a_rest_of_less_than_a_second_is_no_window() -> None:
    assert len(dynamic_windows(series(4 * RATE + 15))) == 2
    assert len(dynamic_windows(series(4 * RATE + 17))) == 3
    assert len(dynamic_windows(series(5))) == 1


def test_flow_variance_is_that_of_eight_frames() -> None:
    flow = np.tile((0.1, 0.3), 20)
    assert np.allclose(flow_variances(series(40, flow=flow)), 0.01)
    assert len(flow_variances(series(40, flow=flow))) == 40 - 8
    assert np.allclose(flow_variances(series(40, flow=np.linspace(0, 1, 40))), np.var(np.arange(8) / 39))
    assert len(flow_variances(series(8))) == 0


def test_a_leap_of_the_flow_is_a_spike_and_fast_or_uneven_motion_is_none() -> None:
    rng = np.random.default_rng(0)
    flow = 0.3 + 0.05 * rng.standard_normal(200)
    assert len(flow_spikes(series(200, flow=flow))) == 0
    assert len(flow_spikes(series(200, flow=np.linspace(0, 3, 200)))) == 0
    flow[[40, 41, 120]] = 1.2, 1.5, 2.0
    assert flow_spikes(series(200, flow=flow)).tolist() == [41 / RATE, 120 / RATE]
    still = np.zeros(200)
    still[50] = 0.1
    assert len(flow_spikes(series(200, flow=still))) == 0, "a gesture in a still video"


def test_spans_in_which_the_picture_stands_still() -> None:
    difference, speed = np.full(160, 0.02), np.full(160, 0.3)
    for start, end in ((33, 65), (80, 84), (144, 160)):
        difference[start:end] = speed[start:end] = 0.0
    assert frozen_spans(series(160, difference=difference, flow_top=speed)) == ((2.0, 65 / RATE), (143 / RATE, 10.0))
    assert frozen_spans(series(160, difference=0.0, flow_top=0.3)) == (), "something small still moves"
    assert frozen_spans(series(32)) == ((0.0, 2.0),)


def test_vbench_flicker_is_one_minus_the_mean_difference() -> None:
    difference = np.array((0.0, 1.0, 0.0, 0.5))
    assert flicker_score(series(4, difference=difference)) == pytest.approx(0.5)


def test_brightness_flicker_sees_what_goes_up_and_down_but_no_drift() -> None:
    assert np.allclose(brightness_flicker(series(50, luminance=np.linspace(0.1, 0.9, 50))), 0)
    uneven = np.cumsum(np.tile((0.05, 0.15), 25))
    assert np.allclose(brightness_flicker(series(50, time=uneven, luminance=uneven / 10)), 0)
    off = brightness_flicker(series(50, luminance=np.tile((0.4, 0.6), 25)))
    assert np.allclose(off[1:-1], 0.2)
    assert np.allclose(brightness_flicker(series(50, swing=0.3)), 0.15), "flicker between the sampled frames"


def test_drift_is_measured_against_the_first_seconds() -> None:
    luma = np.concatenate((np.full(32, 0.4), np.linspace(0.4, 0.7, 64)))
    luma[3] = 1.0
    drift = exposure_drift(series(96, luminance=luma))
    assert drift[0] == pytest.approx(0) and drift[-1] == pytest.approx(0.3)
    assert relative(series(96), np.repeat((0.2, 0.05), 48))[-1] == pytest.approx(0.25)
    assert np.isfinite(relative(series(96), np.repeat((0.0, 0.2), 48))).all(), "a video that begins black"


@pytest.mark.parametrize("rgb", [(0.6, 0.5, 0.4), (0.1, 0.9, 0.1), (0.02, 0.0, 0.03), (1.0, 1.0, 0.0)])
def test_colour_drift_is_a_distance_in_cielab_without_lightness(rgb: tuple[float, float, float]) -> None:
    channels = {name: np.repeat((0.5, value), 64) for name, value in zip(("red", "green", "blue"), rgb, strict=True)}
    drift = color_drift(series(128, **channels))
    _, a, b = cv2.cvtColor(np.array([[rgb]], np.float32), cv2.COLOR_RGB2Lab)[0, 0]
    assert np.allclose(drift[:64], 0)
    assert drift[-1] == pytest.approx(np.hypot(a, b), abs=0.5)
    assert np.allclose(color_drift(series(128, **dict.fromkeys(channels, np.linspace(0, 1, 128)))), 0, atol=0.05)


def test_a_video_that_plays_its_beginning_again_is_found_out() -> None:
    video = wandering(192)
    again = np.concatenate((video[:112], video[:80]))
    found = closest_repetition(series(192, thumbnails=again))
    assert found is not None and found.repeats and found.match > 0.99
    assert found.start - found.source == pytest.approx(7.0)
    rng = np.random.default_rng(0)
    brighter = again * np.linspace(1, 1.1, 192)[:, None, None] + rng.normal(0, 2, again.shape)
    found = closest_repetition(series(192, thumbnails=np.clip(brighter, 0, 255).astype(np.uint8)))
    assert found is not None and found.repeats
    backwards = np.concatenate((video[:96], video[95::-1]))
    for other in (video, backwards):
        found = closest_repetition(series(192, thumbnails=other))
        assert found is not None and not found.repeats


def test_standing_still_is_no_repetition() -> None:
    assert closest_repetition(series(192)) is None
    stops = wandering(192)
    stops[60:] = stops[60]
    found = closest_repetition(series(192, thumbnails=stops))
    assert found is not None and not found.repeats
    grain = np.random.default_rng(0).normal(128, 8, (192, 20, 36)).astype(np.uint8)
    found = closest_repetition(series(192, thumbnails=grain))
    assert found is not None and not found.repeats
    assert closest_repetition(series(100, thumbnails=wandering(100))) is None, "too short to tell"


def test_one_picture_has_the_metrics_that_one_picture_can_have() -> None:
    metrics = LongVideoMetrics.of(series(1))
    told = {name for name, value in dataclasses.asdict(metrics).items() if value not in (None, ())}
    assert told == {
        *("exposure_drift", "largest_exposure_drift", "color_drift", "largest_color_drift", "frozen_share"),
    }


@pytest.mark.parametrize("num_frames", [2, 3, 9, 40, 200, 2000])
def test_metrics_of_any_length_hold_together(num_frames: int) -> None:
    rng = np.random.default_rng(num_frames)
    luma = np.clip(0.3 + 0.3 * np.linspace(0, 1, num_frames) + 0.01 * rng.standard_normal(num_frames), 0, 1)
    flow = rng.random(num_frames)
    video = series(num_frames, luminance=luma, flow=flow, thumbnails=wandering(num_frames))
    metrics = LongVideoMetrics.of(video)
    assert metrics.mean_flow == pytest.approx(flow[1:].mean())
    assert (metrics.flow_variance is None) == (num_frames < 9)
    assert metrics.frozen_share == 1 if num_frames >= RATE / 2 else metrics.frozen_share == 0
    if num_frames >= 200:
        assert metrics.exposure_drift == pytest.approx(0.3, abs=0.05)
        assert metrics.largest_exposure_drift == pytest.approx(metrics.exposure_drift, abs=0.02)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"mean_flow": float("nan")}, "mean_flow is nan"),
        ({"dynamic_degree": 1.5}, "dynamic_degree is 1.5; it is a share"),
    ],
)
def test_figures_that_cannot_be_are_refused(wrong: dict[str, float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        dataclasses.replace(LongVideoMetrics.of(series(40)), **wrong)
