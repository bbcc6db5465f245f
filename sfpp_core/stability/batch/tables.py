"""Results as text for a terminal: fixed columns, with the names, which may be long, at the end of the line."""

from __future__ import annotations

from collections.abc import Sequence

from ..rating import MAX_RATING
from ..score import clock
from .compare import CONFIDENCE, Comparison
from .results import VideoResult


def result_table(results: Sequence[VideoResult]) -> str:
    """A line a video: its score (0 to 100), its worst segment's rating (0 to 5) and time; then the mean score."""
    lines = [f"{'score':>6} {'worst':>6}  {'from':>7} {'to':>7}  video"]
    scores = []
    for result in results:
        if result.stability is None:
            lines.append(f"{'failed':>6} {'':6}  {'':7} {'':7}  {result.question.path}")
            continue
        worst = min(result.stability.segments, key=lambda segment: segment.rating)
        scores.append(result.stability.score)
        lines.append(
            f"{scores[-1]:6.1f} {worst.rating:4.1f}/{MAX_RATING}  {clock(worst.start):>7} {clock(worst.end):>7}  "
            f"{result.question.path}"
        )
    if len(scores) > 1:
        lines.append(f"{sum(scores) / len(scores):6.1f}  mean of {len(scores)} videos")
    return "\n".join(lines) + "\n"


def comparison_table(comparison: Comparison) -> str:
    """A line a pair with both scores and their difference; then what follows from all of them."""
    lines = [f"{'A':>6} {'B':>6} {'B - A':>7}  name"]
    lines += [f"{pair.a:6.1f} {pair.b:6.1f} {pair.difference:+7.1f}  {pair.name}" for pair in comparison.pairs]
    interval = comparison.interval
    span = f"{interval[0]:+.2f} to {interval[1]:+.2f}" if interval else "unknown from one pair"
    lines.append(f"mean difference B - A: {comparison.mean:+.2f}, {CONFIDENCE:.0%} interval {span}")
    lines.append(f"win rate of B: {comparison.win_rate:.1%} (ties count half), n = {len(comparison.pairs)}")
    return "\n".join(lines) + "\n"
