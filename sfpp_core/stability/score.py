"""Visual Stability: the mean of a judge's ratings on a scale of 0 to 100 (arXiv 2510.02283, section 4)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from ..video.span import VideoSpan

MAX_RATING: Final = 5
"""A video with nothing to find fault with; 0 is one whose nearly every frame is lost."""


class JudgeError(RuntimeError):
    """A judge could not rate a video; the message says why and what to do about it, and never holds a key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rating:
    """One judgement. Judges that are language models give whole numbers, the offline judge any."""

    explanation: str
    """What was seen, and when; comes before the number because a judge that explains first rates better."""
    rating: float
    """0 (nearly every frame blown out or crushed) to 5 (balanced exposure, detail kept)."""

    def __post_init__(self) -> None:
        if not 0 <= self.rating <= MAX_RATING:
            raise ValueError(f"rating is {self.rating}; it must lie between 0 and {MAX_RATING}.")
        if not self.explanation.strip():
            raise ValueError("explanation is empty; a rating always says what was seen.")


class Judge(Protocol):
    """Rates how well a video keeps its exposure and its detail."""

    @property
    def name(self) -> str:
        """The judge, with everything that changes its ratings (model, version of the rubric): the key of caches."""
        ...

    def rate(self, video: VideoSpan, prompt: str) -> Rating:
        """Watch `video`, which `prompt` asked for (empty if nobody knows), and rate it.

        Raises:
            JudgeError: no rating could be had.
        """
        ...


SEGMENT_SECONDS: Final = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentRating:
    """The rating of a part of a video; times in seconds from the video's start."""

    start: float
    end: float
    rating: float
    explanation: str


@dataclass(frozen=True, kw_only=True, slots=True)
class VisualStability:
    """The ratings of a video, one for the whole or one a segment."""

    judge: str
    prompt: str
    segments: tuple[SegmentRating, ...]

    @property
    def score(self) -> float:
        """0 to 100: the mean rating, every second counting alike, times 20."""
        length = sum(segment.end - segment.start for segment in self.segments)
        return 100 / MAX_RATING * sum(part.rating * (part.end - part.start) for part in self.segments) / length

    @property
    def explanation(self) -> str:
        """The judge's words, one line a segment with its time and rating."""
        return "\n".join(
            f"{clock(part.start)}-{clock(part.end)}  {part.rating:.1f}/{MAX_RATING}  {part.explanation}"
            for part in self.segments
        )


class RatingStore(Protocol):
    """Remembers ratings, so that none is paid for twice."""

    def get(self, judge: str, video: VideoSpan, prompt: str) -> Rating | None:
        """The rating of exactly this, or None."""
        ...

    def put(self, judge: str, video: VideoSpan, prompt: str, rating: Rating) -> None:
        """Keep a rating, also if the process dies right after."""
        ...


def visual_stability(
    video: VideoSpan,
    prompt: str,
    judge: Judge,
    *,
    segment_seconds: float | None = SEGMENT_SECONDS,
    store: RatingStore | None = None,
    on_segment: Callable[[int, int], None] = lambda done, total: None,
) -> VisualStability:
    """Rate a video as a whole (`segment_seconds` None, as the paper does) or segment by segment.

    on_segment: called with (segments rated, segments in all) after each; may raise to stop.

    Raises:
        JudgeError: the judge could not rate; what it rated before is in the store.
        ValueError: `segment_seconds` is not above 0.
    """
    spans = segment_spans(video.duration, segment_seconds)
    rated = []
    for number, (start, end) in enumerate(spans, start=1):
        part = video if len(spans) == 1 else video.segment(start, end)
        rating = store.get(judge.name, part, prompt) if store else None
        if rating is None:
            rating = judge.rate(part, prompt)
            if store:
                store.put(judge.name, part, prompt, rating)
        rated.append(SegmentRating(start=start, end=end, rating=rating.rating, explanation=rating.explanation))
        on_segment(number, len(spans))
    return VisualStability(judge=judge.name, prompt=prompt, segments=tuple(rated))


def segment_spans(duration: float, segment_seconds: float | None) -> list[tuple[float, float]]:
    """Start and end of each segment in seconds. A rest of less than half a segment belongs to the one before it."""
    if segment_seconds is None:
        return [(0.0, duration)]
    if not segment_seconds > 0:
        raise ValueError(f"segment_seconds is {segment_seconds}; it must be above 0, e.g. {SEGMENT_SECONDS:g}.")
    count = max(1, math.floor(duration / segment_seconds + 0.5))
    starts = [index * segment_seconds for index in range(count)]
    return list(zip(starts, [*starts[1:], duration], strict=True))


def clock(seconds: float) -> str:
    """Minutes and seconds, 1:04.5."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    return f"{minutes}:{rest // 10:02d}.{rest % 10}"
