"""A video that opens in black is compared with its first pictures, and not with the black."""

from __future__ import annotations

import numpy as np
import pytest

from sfpp_core.stability.offline.judge import Assessment, Damage, assess
from tests.helpers.measured import RATE, series

BLACK, FADE, VIDEO = RATE, RATE, 6 * RATE


def faded_in(black: int = BLACK, **later: float) -> Assessment:
    """A second of black, or as many frames; one of fading in; six of video, whose second half may measure otherwise."""
    light = np.concatenate((np.zeros(black), np.linspace(0, 1, FADE + 1)[1:], np.ones(VIDEO)))
    values = {name: level * light for name, level in (("luminance", 0.5), ("contrast", 0.2), ("spread", 0.5))}
    values |= {"sharpness": 0.6 * (light > 0), "shadows": 1.0 * (light == 0)}
    for name, value in later.items():
        values[name][-VIDEO // 2 :] = value
    tiles = np.repeat(values["luminance"][:, None, None], 36, axis=1).repeat(3, axis=2).astype(np.float32)
    change = np.diff(values["luminance"], prepend=0.0)[:, None].repeat(3, axis=1)
    return assess(series(len(light), **values, tiles=tiles, light_change=change))


def test_fading_in_is_no_damage() -> None:
    found = faded_in()
    assert found.shots.opening == pytest.approx(BLACK + 0.8 * FADE, abs=1)
    assert found.quality() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("kind", "later"),
    [
        (Damage.DARKENING, {"luminance": 0.25}),
        (Damage.OVER_EXPOSURE, {"luminance": 0.9}),
        (Damage.CONTRAST_LOSS, {"contrast": 0.08, "spread": 0.2}),
        (Damage.BLUR, {"sharpness": 0.2}),
    ],
)
def test_what_is_damaged_after_fading_in_is_found(kind: Damage, later: dict[str, float]) -> None:
    shares = faded_in(**later).shares(slice(-VIDEO // 2, None))
    assert max(shares, key=shares.__getitem__) is kind and shares[kind] > 0.3


def test_a_video_that_stays_black_for_long_before_it_begins_is_damaged() -> None:
    assert faded_in(black=5 * RATE).shares(slice(5 * RATE))[Damage.DARKENING] > 0.3


def test_a_video_that_is_black_throughout_has_no_opening() -> None:
    black = assess(series(4 * RATE, luminance=0.0, contrast=0.0, spread=0.0, shadows=1.0))
    assert black.shots.opening == 0 and black.quality() < 0.7
