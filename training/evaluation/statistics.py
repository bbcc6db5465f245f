"""Means over films with their uncertainty. Prompts are a sample of all prompts, and the films of one are alike.

Axes: P prompt, S take of a prompt. NaN marks a film without a figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

CONFIDENCE: Final = 0.95
NUM_RESAMPLES: Final = 2000
SEED: Final = 0
"""Of the resampling: the same figures give the same interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean and its 95 % confidence interval; None where there is nothing to tell it from."""

    mean: float | None
    low: float | None = None
    high: float | None = None
    films: int = 0
    """How many films count."""


NOTHING: Final = Estimate(mean=None)


def cluster_mean(values: NDArray[np.float64]) -> Estimate:
    """Mean of films [P, S], with a percentile interval from the bootstrap of whole clusters.

    Prompts are drawn with replacement and, within each drawn one, its takes (Davison and Hinkley, Bootstrap Methods and
    their Application, 1997, section 3.8). One prompt alone has no interval.
    """
    return _resampled(lambda drawn: np.nanmean(drawn[0], axis=(1, 2)), values)


def cluster_ratio(values: NDArray[np.float64], references: NDArray[np.float64]) -> Estimate:
    """Mean of films [P, S] as a multiple of the mean of reference films [P, S], drawn together; None at 0."""
    if not np.nanmean(references) > 0:
        return NOTHING
    return _resampled(
        lambda drawn: np.nanmean(drawn[0], axis=(1, 2)) / np.nanmean(drawn[1], axis=(1, 2)), values, references
    )


def jackknife(statistic: Callable[[NDArray[np.intp]], float], num_prompts: int, films: int) -> Estimate:
    """A statistic of a set of prompts (their numbers), with a t interval from leaving out one prompt at a time.

    For statistics that repeated prompts would mislead, such as distances of distributions (Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, chapter 11).
    """
    everybody = np.arange(num_prompts)
    mean = statistic(everybody)
    if num_prompts < 3:
        return Estimate(mean=mean, films=films)
    without = np.array([statistic(np.delete(everybody, prompt)) for prompt in everybody])
    error = math.sqrt((num_prompts - 1) / num_prompts * float(((without - without.mean()) ** 2).sum()))
    reach = float(stdtrit(num_prompts - 1, (1 + CONFIDENCE) / 2)) * error
    return Estimate(mean=mean, low=mean - reach, high=mean + reach, films=films)


def _resampled(
    statistic: Callable[[list[NDArray[np.float64]]], NDArray[np.float64]], *samples: NDArray[np.float64]
) -> Estimate:
    """Statistics of arrays [R, P, S], one a resample, of samples [P, S] that are drawn alike."""
    known = np.isfinite(samples[0])
    kept = known.any(axis=1)
    if not kept.any():
        return NOTHING
    samples = tuple(sample[kept] for sample in samples)
    mean = float(statistic([sample[None] for sample in samples])[0])
    num_prompts, num_takes = samples[0].shape
    if num_prompts == 1:
        return Estimate(mean=mean, films=int(known.sum()))
    generator = np.random.default_rng(SEED)
    prompts = generator.integers(num_prompts, size=(NUM_RESAMPLES, num_prompts, 1))
    takes = generator.integers(num_takes, size=(NUM_RESAMPLES, num_prompts, num_takes))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = statistic([sample[prompts, takes] for sample in samples])
    if not np.isfinite(means).all():
        # A ratio to a mean that may be 0: the interval has no end.
        return Estimate(mean=mean, films=int(known.sum()))
    low, high = np.quantile(means, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return Estimate(mean=mean, low=float(low), high=float(high), films=int(known.sum()))
