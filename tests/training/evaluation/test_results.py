"""From videos to findings, on figures made up so that every answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.evaluation.figures import curve_edges
from training.evaluation.plots import plot_drift, plot_measures
from training.evaluation.report import findings, write_markdown
from training.evaluation.results import (
    MEASURES,
    NOTHING,
    Results,
    VideoKey,
    VideoRecord,
    frechet_distance,
    standardised,
)

PROMPTS, TAKES = 6, 2
STABILITY = next(measure for measure in MEASURES if measure.name == "stability")
NO_REPEAT = next(measure for measure in MEASURES if measure.name == "no_repeat")
ARMS = {"truth": 0.0, "better": 5.0, "worse": 20.0}
"""What 50 seconds take off the score of 90."""


def features(arm: str) -> np.ndarray:
    """[P, S, 21], an arm's last 5 s as the reader has them."""
    rng = np.random.default_rng(list(ARMS).index(arm))
    return rng.normal(size=(PROMPTS, TAKES, 21)) + ARMS[arm] / 10


def video(arm: str, prompt: int, take: int) -> VideoRecord:
    score = 90.0 + prompt
    late = score - ARMS[arm] + 0.1 * take
    figures = {
        "5": {"stability": score, "repeats": None, "luminance_error": 0.0},
        "50": {"stability": late, "repeats": float(prompt == 0), "luminance_error": 0.01 * prompt},
    }
    drift = [ARMS[arm] * step / 1000 for step in range(len(curve_edges(50.0)) - 1)]
    return VideoRecord(
        key=VideoKey(arm=arm, prompt=prompt, take=take),
        identity="",
        text=f"prompt {prompt}",
        seed=1,
        figures=figures,
        features={"50": features(arm)[prompt, take].tolist()},
        curves={name: drift for name in ("exposure", "hue", "contrast")},
        seconds=2.0,
    )


@pytest.fixture
def results() -> Results:
    videos = [video(arm, prompt, take) for arm in ARMS for prompt in range(PROMPTS) for take in range(TAKES)]
    return Results(videos, list(ARMS), truths=["truth"], prompts=PROMPTS, takes=TAKES)


def test_means_changes_and_paired_differences(results: Results) -> None:
    assert results.lengths == ["5", "50"]
    assert results.mean(STABILITY, "worse", "50").mean == pytest.approx(92.5 - 20 + 0.05)
    change = results.change(STABILITY, "worse", "50")
    assert change.mean == pytest.approx(-19.95)
    difference = results.difference(STABILITY, "better", "worse", "50")
    assert (difference.mean, difference.low, difference.high) == pytest.approx((15.0, 15.0, 15.0)), (
        "videos of one prompt and take differ by this and nothing else, whatever prompts are drawn"
    )
    mean = results.mean(STABILITY, "better", "50")
    assert mean.high - mean.low > 1, "prompts differ"


def test_a_video_that_is_too_short_to_repeat_does_not_count_as_one_that_does_not(results: Results) -> None:
    assert results.mean(NO_REPEAT, "better", "5") == NOTHING
    assert results.mean(NO_REPEAT, "better", "50").mean == pytest.approx(100 * 5 / 6)


def test_the_distance_from_the_truth_is_frechets_of_standardised_features(results: Results) -> None:
    truths = list(np.random.default_rng(9).normal(2.0, 3.0, size=(PROMPTS, 40, 21)))
    pooled = np.concatenate(truths)
    for arm in ARMS:
        estimate = results.distance(truths, arm, "50")
        made = standardised(features(arm).reshape(-1, 21), pooled)
        assert estimate.mean == pytest.approx(frechet_distance(made, standardised(pooled, pooled)))
        assert estimate.low < estimate.mean < estimate.high and estimate.videos == PROMPTS * TAKES
    assert results.distance(truths, "better", "5") == NOTHING


def test_errors_are_told_by_attribute(results: Results) -> None:
    by_parity = results.by_attribute(
        lambda prompt: "even" if prompt % 2 == 0 else "odd", "luminance_error", "worse", "50"
    )
    assert by_parity == {"even": pytest.approx(0.02), "odd": pytest.approx(0.03)}


def test_tables_and_plots_tell_what_was_found(results: Results, tmp_path: Path) -> None:
    found = findings(results, ["worse"], None, "truth")
    write_markdown(tmp_path / "report.md", found, results, ["worse"], "Films")
    text = (tmp_path / "report.md").read_text()
    assert "| better | +0.0 [+0.0, +0.0] | +15.0 [+15.0, +15.0] |" in text
    assert "| arm | 5 s | 50 s |" in text
    plot_measures(found, ("stability", "frechet_distance"), results, "Films", tmp_path / "scores.png")
    plot_drift(results, curve_edges(50.0), tmp_path / "drift.png")
    for name in ("scores", "drift"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width == 1024
            assert len(picture.convert("RGB").getcolors(2**20)) > 50, "something is drawn"
