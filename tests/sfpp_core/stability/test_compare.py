"""Two sets of videos are compared pair by pair, with an interval that says how sure the difference is."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sfpp_core.stability.batch.cli import comparison_table
from sfpp_core.stability.batch.compare import CONFIDENCE, compare


def comparison_of(differences):
    names = [f"{index:03d}" for index in range(len(differences))]
    return compare(dict.fromkeys(names, 50.0), {name: 50.0 + d for name, d in zip(names, differences, strict=True)})


def test_names_are_paired_and_what_has_no_pair_is_told():
    comparison = compare({"x": 40.0, "y": 60.0, "a": 1.0, "bad": None}, {"y": 50.0, "x": 70.0, "b": 2.0, "bad": 3.0})
    assert [(pair.name, pair.difference) for pair in comparison.pairs] == [("x", 30.0), ("y", -10.0)]
    assert (comparison.only_a, comparison.only_b, comparison.failed) == (("a",), ("b",), ("bad",))
    assert comparison.mean == 10.0
    with pytest.raises(ValueError, match="nothing to compare"):
        compare({"x": 1.0}, {"y": 1.0})


def test_ties_count_half():
    assert comparison_of([5, -5, 0, 1]).win_rate == (1 + 0 + 0.5 + 1) / 4
    assert compare({"x": 0.1 + 0.2}, {"x": 0.3}).win_rate == 0.5


def test_one_pair_and_equal_differences_have_an_answer():
    one, zeros, ones = comparison_of([3]), comparison_of([0, 0]), comparison_of([1, 1, 1])
    assert (one.mean, one.interval, one.win_rate) == (3.0, None, 1.0)
    assert (zeros.mean, zeros.interval, zeros.win_rate) == (0.0, (0.0, 0.0), 0.5)
    assert ones.interval == (1.0, 1.0)
    assert json.loads(one.to_json())["interval"] is None
    assert "unknown from one pair" in comparison_table(one)


def test_the_interval_is_the_normal_one_where_differences_are_normal_and_leans_where_they_are_skewed():
    draws = np.random.default_rng(0)
    normal, skewed = draws.normal(3, 10, 200), draws.exponential(10, 30)
    low, high = comparison_of(normal).interval
    half = 1.96 * normal.std(ddof=1) / np.sqrt(200)
    assert CONFIDENCE == 0.95
    assert (low, high) == pytest.approx((normal.mean() - half, normal.mean() + half), abs=0.2 * half)
    low, high = comparison_of(skewed).interval
    assert high - skewed.mean() > 1.1 * (skewed.mean() - low)


def test_the_same_scores_give_the_same_interval_and_strict_json():
    differences = [12, -3, 8, 0, 5, 7]
    first, second = comparison_of(differences), comparison_of(differences)
    assert first.to_json() == second.to_json()
    entries = json.loads(first.to_json())
    assert entries["n"] == 6
    assert entries["mean_difference"] == pytest.approx(29 / 6)
    assert entries["interval"][0] < 29 / 6 < entries["interval"][1]
    assert [pair["difference"] for pair in entries["pairs"]] == differences
