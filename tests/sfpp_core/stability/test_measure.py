"""Each measured quantity is what its name says, in the unit that it says."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from sfpp_core.stability.measure import detail, measure
from tests.helpers.clips import footage, pan, scene


def test_light_and_colour_of_a_known_picture() -> None:
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[:10] = 255
    picture[10:20] = (204, 102, 51)
    series = measure(footage([picture]))
    luma = 0.299 * 0.8 + 0.587 * 0.4 + 0.114 * 0.2
    assert series.luminance == pytest.approx((1 + luma) / 4, abs=2e-3)
    assert series.contrast == pytest.approx(np.std([1, luma, 0, 0]), abs=2e-3)
    assert (series.highlights, series.shadows) == (pytest.approx(0.25), pytest.approx(0.5))
    assert (series.red, series.green, series.blue) == tuple(pytest.approx((1 + c) / 4) for c in (0.8, 0.4, 0.2))
    assert series.saturation == pytest.approx(0.6 / 4)
    assert series.rate == 16


@pytest.mark.parametrize("fps", [16, 24, 60])
def test_flow_is_in_picture_heights_a_second(fps: int) -> None:
    wide = pan(1, height=96, width=1024)[0]
    series = measure(footage([wide[:, 2 * index :][:, :128] for index in range(fps)], fps))
    speed = 2 * fps / 96
    assert np.median(series.flow) == pytest.approx(speed, rel=0.1)
    assert np.median(series.flow_top) == pytest.approx(speed, rel=0.2)
    assert series.flow[0] == series.difference[0] == 0


def test_difference_and_swing_tell_slow_flicker_from_flicker_between_the_samples() -> None:
    """At 64 frames a second every fourth is measured: brightness that alternates looks constant to those."""
    base = np.full((32, 32, 3), 100, np.uint8)
    alternating = measure(footage([base + 51 * (index % 2) for index in range(64)], 64))
    assert alternating.difference == pytest.approx(0)
    assert alternating.swing[1:] == pytest.approx(0.2)
    rising = measure(footage([base + index for index in range(64)], 64))
    assert rising.difference[1:] == pytest.approx(4 / 255)
    assert rising.swing == pytest.approx(0, abs=1e-6)


def test_light_change_follows_what_moves() -> None:
    """A pan changes what is seen, and not its light; a gain changes its light."""
    frames = pan()
    unlit = measure(footage(frames, 24)).light_change.sum(axis=0)
    gains = np.linspace(1, 0.7, len(frames))
    dimmed = measure(footage([(frame * gain).astype(np.uint8) for frame, gain in zip(frames, gains, strict=True)], 24))
    assert unlit == pytest.approx(0, abs=0.03)
    assert dimmed.light_change.sum(axis=0) == pytest.approx(-0.3 * np.mean(frames) / 255, abs=0.04)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gain": lambda x: 0.6 * x,
    "contrast": lambda x: 0.5 + 0.4 * (x - 0.5),
    "offset": lambda x: 0.15 + 0.8 * x,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_sharpness_does_not_depend_on_light_or_contrast(change: Callable[[np.ndarray], np.ndarray]) -> None:
    grey = cv2.cvtColor(pan(1, height=120, width=160)[0], cv2.COLOR_RGB2GRAY)
    changed = (255 * change(grey / 255)).astype(np.uint8)
    assert detail(changed)[0] == pytest.approx(detail(grey)[0], rel=0.05)


def test_sharpness_falls_with_blur_and_noise_rises_with_noise() -> None:
    grey = cv2.cvtColor(scene(0, 1, 120, 160)[0], cv2.COLOR_RGB2GRAY)
    rng = np.random.default_rng(0)
    blurred = [detail(cv2.GaussianBlur(grey, (0, 0), sigma))[0] for sigma in (0.3, 0.7, 1.0, 1.5, 2.5)]
    assert all(np.diff(blurred) < 0)
    assert blurred[-1] < 0.5 * blurred[0]
    noisy = [np.clip(grey + rng.normal(0, s, grey.shape), 0, 255).astype(np.uint8) for s in (0, 3, 6, 12, 24)]
    noises = [255 * detail(picture)[1] for picture in noisy]
    assert all(np.diff(noises) > 0)
    assert noises[3] == pytest.approx(12, rel=0.3)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (2, 7), (33, 35), (700, 1100)])
def test_any_size_can_be_measured(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    series = measure(footage(list(rng.integers(0, 256, (3, *size, 3), dtype=np.uint8))))
    assert all(np.isfinite(getattr(series, name)).all() for name in series.__slots__)
    assert max(series.thumbnails.shape[1:]) <= 36


def test_progress_is_told_and_may_stop_the_pass() -> None:
    shares: list[float] = []
    measure(footage(scene(0, 20)), shares.append)
    assert shares == sorted(shares) and shares[-1] == 1 and len(shares) == 21

    def stop(share: float) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        measure(footage(scene(0, 20)), stop)


def test_a_part_of_a_series_is_that_of_its_span() -> None:
    series = measure(footage(scene(0, 48)))
    part = series.between(1.0, 2.0)
    assert part.time.tolist() == series.time[16:32].tolist()
    assert np.array_equal(part.flow, series.flow[16:32])
    assert series.between(2.97, 2.99).time.tolist() == [47 / 16]
