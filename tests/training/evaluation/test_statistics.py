"""Means, intervals and distances of evaluations, against independent formulas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.linalg import sqrtm

from training.evaluation.results import NOTHING, cluster_mean, cluster_ratio, frechet_distance, jackknife, standardised


def videos(seed: int, prompts: int, takes: int, *, between: float, within: float) -> np.ndarray:
    """[P, S] of mean 0."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, between, (prompts, 1)) + rng.normal(0, within, (prompts, takes))


def test_one_video_a_prompt_has_the_interval_of_the_mean() -> None:
    values = videos(0, 64, 1, between=1.0, within=0.0)
    estimate = cluster_mean(values)
    error = values.std() / 8
    assert estimate.mean == pytest.approx(values.mean()) and estimate.videos == 64
    assert estimate.low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert estimate.high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)


def test_videos_of_one_prompt_are_no_independent_videos() -> None:
    """Taken for 96 independent videos, 32 prompts with three alike each would look far surer than they are."""
    values = np.repeat(videos(1, 32, 1, between=1.0, within=0.0), 3, axis=1)
    clustered, naive = cluster_mean(values), cluster_mean(values.reshape(-1, 1))
    ratio = (clustered.high - clustered.low) / (naive.high - naive.low)
    assert ratio == pytest.approx(3**0.5, rel=0.1)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    held = [
        (estimate := cluster_mean(videos(seed, 24, 3, between=1.0, within=1.0))).low < 0 < estimate.high
        for seed in range(120)
    ]
    assert 0.88 <= np.mean(held) <= 1.0


def test_missing_videos_count_for_nothing() -> None:
    values = videos(2, 8, 3, between=1.0, within=1.0)
    values[0] = np.nan
    values[3, 1] = np.nan
    estimate = cluster_mean(values)
    assert estimate.videos == 20 and estimate.mean == pytest.approx(np.nanmean(values))
    assert estimate.low < estimate.mean < estimate.high
    assert cluster_mean(np.full((4, 2), np.nan)) == NOTHING
    alone = cluster_mean(values[3:4])
    assert alone.low is None and alone.videos == 2


def test_a_ratio_of_means_is_drawn_together() -> None:
    """An arm at nine tenths of each true video is at nine tenths for sure, however much the videos differ."""
    truth = np.abs(videos(3, 16, 2, between=1.0, within=0.5)) + 0.1
    estimate = cluster_ratio(0.9 * truth, truth)
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((0.9, 0.9, 0.9))
    assert cluster_ratio(truth, np.zeros_like(truth)) == NOTHING
    truth[1:] = 0
    unbounded = cluster_ratio(truth, truth)
    assert unbounded.mean == 1 and unbounded.low is None, "some draws have no prompt in which anything moves"


def test_the_jackknife_of_a_mean_is_its_t_interval() -> None:
    values = videos(4, 20, 1, between=1.0, within=0.0)[:, 0]
    estimate = jackknife(lambda chosen: float(values[chosen].mean()), 20, 20)
    low, high = stats.t.interval(0.95, 19, loc=values.mean(), scale=stats.sem(values))
    assert (estimate.low, estimate.high) == pytest.approx((low, high))


def test_frechet_distance_is_the_formula() -> None:
    rng = np.random.default_rng(5)
    a = rng.normal(size=(60, 6)) @ rng.normal(size=(6, 6)) + 1.0
    b = rng.normal(size=(80, 6)) @ rng.normal(size=(6, 6))
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    gap = a.mean(axis=0) - b.mean(axis=0)
    expected = gap @ gap + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(a, a + 2.0) == pytest.approx(6 * 4.0)


def test_fewer_windows_than_features_still_have_a_distance() -> None:
    rng = np.random.default_rng(6)
    few, many = rng.normal(size=(5, 21)), rng.normal(size=(500, 21))
    assert 0 < frechet_distance(few, many) < 100
    with pytest.raises(ValueError, match="sets of 1 and 500 windows"):
        frechet_distance(few[:1], many)


def test_every_feature_counts_alike_and_a_constant_one_not() -> None:
    rng = np.random.default_rng(7)
    truth = rng.normal(size=(200, 3)) * (100.0, 0.01, 0.0) + 5.0
    scaled = standardised(truth, truth)
    assert np.allclose(scaled[:, :2].std(axis=0), 1) and np.allclose(scaled, scaled - scaled.mean(axis=0))
    assert np.allclose(scaled[:, 2], 0)
