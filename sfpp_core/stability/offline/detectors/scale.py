"""From measured amounts to severities."""

from __future__ import annotations

import numpy as np


def severity(amount: np.ndarray, scale: float, power: float = 2.0) -> np.ndarray:
    """1 - exp(-(amount / scale) ** power), the Weibull psychometric function; negative amounts count as none.

    An amount of a third of the scale is hardly seen (0.1), the scale itself is plain (0.63), twice the scale leaves
    nothing to lose (0.98). It rises strictly, so that more damage is never rated better.
    """
    return 1 - np.exp(-((np.maximum(amount, 0.0) / scale) ** power))


def combined(*severities: np.ndarray) -> np.ndarray:
    """What several damages take together, each from what the others leave."""
    kept = np.ones_like(severities[0])
    for each in severities:
        kept = kept * (1 - each)
    return 1 - kept


def window_frames(seconds: float, rate: float, least: int = 1) -> int:
    """A length of time in frames."""
    return max(least, round(seconds * rate))


def windowed_median(values: np.ndarray, width: int) -> np.ndarray:
    """[F] median of the `width` values around each, fewer at the ends."""
    return np.nanmedian(_windows(values, width), axis=1)


def windowed_mean(values: np.ndarray, width: int) -> np.ndarray:
    """[F] mean of the `width` values around each, fewer at the ends."""
    return np.nanmean(_windows(values, width), axis=1)


def _windows(values: np.ndarray, width: int) -> np.ndarray:
    """[F] to [F, width]: the values around each, NaN beyond the ends."""
    before = (width - 1) // 2
    padded = np.pad(values.astype(np.float64), (before, width - 1 - before), constant_values=np.nan)
    return np.lib.stride_tricks.sliding_window_view(padded, width)
