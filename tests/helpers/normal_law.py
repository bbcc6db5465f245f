"""Whether numbers are what noise should be. Bounds are five standard deviations of what is measured, for as many
numbers as there are.
"""

from __future__ import annotations

import math

import torch
from scipy import stats
from torch import Tensor

RARE = 1e-5
"""A probability so small that draws which follow the law would have to be very unlucky."""


def assert_standard_normal(values: Tensor) -> None:
    """Numbers are draws of N(0, 1): their mean, their variance, and the whole law by Kolmogorov and Smirnov."""
    numbers = values.double().flatten()
    count = numbers.numel()
    assert abs(numbers.mean().item()) < 5 / math.sqrt(count)
    assert abs(numbers.var().item() - 1) < 5 * math.sqrt(2 / count)
    assert stats.kstest(numbers.numpy(), "norm").pvalue > RARE


def assert_uncorrelated(left: Tensor, right: Tensor) -> None:
    """Two series of numbers, one of which is noise, know nothing of one another."""
    series = torch.stack([left.double().flatten(), right.double().flatten()])
    assert abs(torch.corrcoef(series)[0, 1].item()) < 5 / math.sqrt(series.shape[1])


def assert_all_uncorrelated(noises: list[Tensor]) -> None:
    """No two of these draws of noise are the same, or alike."""
    length = min(noise.numel() for noise in noises)
    series = torch.stack([noise.double().flatten()[:length] for noise in noises])
    among = torch.corrcoef(series) - torch.eye(len(noises), dtype=torch.float64)
    pairs = len(noises) * (len(noises) - 1) / 2
    # The largest of so many: each is within this bound but for a probability of RARE / pairs.
    assert among.abs().max().item() < stats.norm.isf(RARE / pairs / 2) / math.sqrt(length)
