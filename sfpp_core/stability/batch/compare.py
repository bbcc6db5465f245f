"""Whether one set of videos is rated higher than another, video by video: the same seed or prompt made both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np

CONFIDENCE: Final = 0.95
NUM_RESAMPLES: Final = 9999
SEED: Final = 0
"""Of the resampling: the same scores give the same interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """The scores of two videos that belong together, 0 to 100."""

    name: str
    a: float
    b: float

    @property
    def difference(self) -> float:
        """B minus A: above 0 if B is the better one."""
        # Weighted means of the same ratings may differ in their last bits, which is no victory.
        return round(self.b - self.a, 6)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Paired differences B - A of scores."""

    pairs: tuple[Pair, ...]
    only_a: tuple[str, ...]
    """Names that side B has not. Like those that failed they count for nothing."""
    only_b: tuple[str, ...]
    failed: tuple[str, ...]
    """Names on both sides of which one has no score."""

    def __post_init__(self) -> None:
        if not self.pairs:
            raise ValueError("no video has a score on both sides; there is nothing to compare.")

    @property
    def mean(self) -> float:
        """The mean difference."""
        return float(np.mean([pair.difference for pair in self.pairs]))

    @property
    def win_rate(self) -> float:
        """The share of pairs in which B is better, 0 to 1; a tie counts half."""
        return float(np.mean([(np.sign(pair.difference) + 1) / 2 for pair in self.pairs]))

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval of the mean difference; None for a single pair, which says nothing of it.

        The bias-corrected and accelerated bootstrap (Efron, Better Bootstrap Confidence Intervals, JASA 82, 1987) over
        pairs, by scipy.
        """
        differences = np.array([pair.difference for pair in self.pairs])
        if len(differences) == 1:
            return None
        if np.ptp(differences) == 0:
            # Every resample has the same mean, of which the method can make nothing.
            return self.mean, self.mean
        # A second to load, which every worker of the command line would spend for nothing.
        from scipy.stats import bootstrap

        interval = bootstrap(
            (differences,),
            np.mean,
            n_resamples=NUM_RESAMPLES,
            confidence_level=CONFIDENCE,
            method="BCa",
            rng=np.random.default_rng(SEED),
        ).confidence_interval
        return float(interval.low), float(interval.high)

    def to_json(self) -> str:
        """One JSON object."""
        entries = {
            "n": len(self.pairs),
            "mean_difference": self.mean,
            "confidence": CONFIDENCE,
            "interval": self.interval,
            "win_rate": self.win_rate,
            "pairs": [{**asdict(pair), "difference": pair.difference} for pair in self.pairs],
            "only_a": self.only_a,
            "only_b": self.only_b,
            "failed": self.failed,
        }
        return json.dumps(entries, allow_nan=False)


def compare(a: Mapping[str, float | None], b: Mapping[str, float | None]) -> Comparison:
    """Compare two sets of videos by name. Scores from 0 to 100; None: it could not be rated, or was not.

    Raises:
        ValueError: no name has a score in both.
    """
    both = sorted(a.keys() & b.keys())
    failed = [name for name in both if a[name] is None or b[name] is None]
    return Comparison(
        pairs=tuple(Pair(name=name, a=a[name], b=b[name]) for name in both if name not in failed),
        only_a=tuple(sorted(a.keys() - b.keys())),
        only_b=tuple(sorted(b.keys() - a.keys())),
        failed=tuple(failed),
    )
