"""Reports on made-up videos, for the tests of reports and of their plots."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sfpp_core.stability.offline.judge import Damage, Event
from sfpp_core.stability.report import StabilityReport
from sfpp_core.stability.score import SegmentRating, VisualStability, segment_spans
from tests.helpers.measured import RATE, series


def event(kind: str, start: float, end: float, strength: float = 0.5) -> Event:
    return Event(kind=Damage(kind), start=start, end=end, strength=strength, description=f"{kind} from {start:g} s")


def report(
    seconds: float, events: Sequence[Event] = (), *, video: str = "video.mp4", **changed: object
) -> StabilityReport:
    """A video whose ratings fall from 5 to 0, segment by segment; `changed` as for `series`."""
    num_frames = max(1, round(seconds * RATE))
    spans = segment_spans(num_frames / RATE, 10.0)
    falling = np.linspace(5, 0, len(spans)).round(2).tolist()
    segments = tuple(
        SegmentRating(start=start, end=end, rating=rating, explanation="darker")
        for (start, end), rating in zip(spans, falling, strict=True)
    )
    measured = series(num_frames, **changed)
    stability = VisualStability(judge="offline-1", prompt="a red ball", segments=segments)
    return StabilityReport.of(video, stability, measured, events)
