"""Everything that was found out about a video, as one value that travels as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .measure import FrameSeries
from .metrics import LongVideoMetrics, Repetition, color_drift, relative
from .offline.judge import Damage, Event
from .score import SegmentRating, VisualStability

MAX_POINTS: Final = 1000
"""As many as a plot of 1024 pixels can show."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """Each field holds one value a point in time, and all as many."""

    time: tuple[float, ...]
    """Seconds of the video, rising."""
    luminance: tuple[float, ...]
    """Mean luma, display values 0 to 1."""
    highlights: tuple[float, ...]
    """Share of the picture that is clipped, 0 to 1."""
    shadows: tuple[float, ...]
    """Share of the picture that is crushed, 0 to 1."""
    contrast: tuple[float, ...]
    """Standard deviation of luma, as a multiple of that of the first seconds."""
    sharpness: tuple[float, ...]
    """Sharpness, as a multiple of that of the first seconds."""
    color_drift: tuple[float, ...]
    """CIELAB distance of the mean colour from that of the first seconds, lightness left out."""
    flow: tuple[float, ...]
    """Optical-flow magnitude in picture heights a second: the largest of the frames that a point stands for. The first
    frame, which has none before it, is given the second's."""

    def __post_init__(self) -> None:
        for field in fields(self):
            values = getattr(self, field.name)
            if len(values) != len(self.time) or not values:
                raise ValueError(f"{field.name} has {len(values)} points; it must have as many as time, at least 1.")
            if not all(math.isfinite(value) for value in values):
                raise ValueError(f"{field.name} holds values that are not finite.")
        if any(later <= earlier for earlier, later in zip(self.time, self.time[1:], strict=False)):
            raise ValueError("time does not rise from point to point.")

    @classmethod
    def of(cls, series: FrameSeries) -> Curves:
        """The curves of a video that was measured, each point the mean of as many frames as `MAX_POINTS` asks for."""
        frames = math.ceil(len(series) / MAX_POINTS)
        flow = np.append(series.flow[1:2], series.flow[1:]) if len(series) > 1 else series.flow
        return cls(
            time=_means(series.time, frames),
            luminance=_means(series.luminance, frames),
            highlights=_means(series.highlights, frames),
            shadows=_means(series.shadows, frames),
            contrast=_means(relative(series, series.contrast), frames),
            sharpness=_means(relative(series, series.sharpness), frames),
            color_drift=_means(color_drift(series), frames),
            flow=_largest(flow, frames),
        )


def _means(values: NDArray[np.floating], frames: int) -> tuple[float, ...]:
    starts = np.arange(0, len(values), frames)
    lengths = np.diff(np.append(starts, len(values)))
    return _rounded(np.add.reduceat(values.astype(np.float64), starts) / lengths)


def _largest(values: NDArray[np.floating], frames: int) -> tuple[float, ...]:
    return _rounded(np.maximum.reduceat(values.astype(np.float64), np.arange(0, len(values), frames)))


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    """Five decimals: finer than any of these is known, and a third of the text."""
    return tuple(values.round(5).tolist())


FORMAT: Final = "sfpp-stability-report"
FORMAT_VERSION: Final = 1


class ReportError(ValueError):
    """A text that is no stability report; says what is wrong with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StabilityReport:
    """The ratings of a video, its metrics, the damages that were found, and its course over time."""

    video: str
    """Name of the video for people: a file's name without its folders."""
    stability: VisualStability
    metrics: LongVideoMetrics
    events: tuple[Event, ...]
    """In the order of their beginning."""
    curves: Curves

    def __post_init__(self) -> None:
        if not self.stability.segments:
            raise ValueError("a report has at least one rated segment.")

    def __repr__(self) -> str:
        """Short: ComfyUI puts what a node was given into its error messages."""
        return f"StabilityReport({self.video!r}, score {self.stability.score:.1f}, {len(self.events)} events)"

    @classmethod
    def of(
        cls, video: str, stability: VisualStability, series: FrameSeries, events: Sequence[Event]
    ) -> StabilityReport:
        """The report on a video that was rated, measured and searched for damages."""
        return cls(
            video=video,
            stability=stability,
            metrics=LongVideoMetrics.of(series),
            events=tuple(sorted(events, key=lambda event: (event.start, event.end))),
            curves=Curves.of(series),
        )

    def to_json(self) -> str:
        """One JSON object. `score` (0 to 100) and `repeats` repeat what follows from the rest, for whoever reads it."""
        metrics = dataclasses.asdict(self.metrics)
        if self.metrics.repetition:
            metrics["repetition"]["repeats"] = self.metrics.repetition.repeats
        entries = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "video": self.video,
            "score": self.stability.score,
            **dataclasses.asdict(self.stability),
            "metrics": metrics,
            "events": [dataclasses.asdict(event) for event in self.events],
            "curves": dataclasses.asdict(self.curves),
        }
        return json.dumps(entries, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> StabilityReport:
        """The report that `to_json` wrote.

        Raises:
            ReportError: it is none, is damaged, or of a version that this program does not read.
        """
        try:
            entries = json.loads(text, parse_constant=_refuse)
        except ValueError as problem:
            raise ReportError(f"This is no JSON text ({problem}); give a report of this pack.") from problem
        if not isinstance(entries, dict) or entries.get("format") != FORMAT:
            raise ReportError(f'This is no stability report: its "format" is not "{FORMAT}".')
        if entries.get("version") != FORMAT_VERSION:
            raise ReportError(
                f"The report is of version {entries.get('version')}, this program reads version {FORMAT_VERSION}; "
                "make the report again."
            )
        try:
            return _read(entries)
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as problem:
            raise ReportError(f"The report is damaged ({problem!r}); make it again.") from problem


def _read(entries: Mapping[str, Any]) -> StabilityReport:
    report = StabilityReport(
        video=_text(entries["video"]),
        stability=VisualStability(
            judge=_text(entries["judge"]),
            prompt=_text(entries["prompt"]),
            segments=tuple(SegmentRating(**_checked(segment)) for segment in entries["segments"]),
        ),
        metrics=_read_metrics(_checked(entries["metrics"])),
        events=tuple(_read_event(_checked(event)) for event in entries["events"]),
        curves=Curves(**_checked(entries["curves"])),
    )
    if not abs(report.stability.score - entries["score"]) < 1e-6:
        raise ValueError(f"score is {entries['score']}, but its ratings make {report.stability.score}")
    return report


def _read_event(entries: dict[str, Any]) -> Event:
    return Event(kind=Damage(entries.pop("kind")), **entries)


def _read_metrics(entries: dict[str, Any]) -> LongVideoMetrics:
    repetition = entries.pop("repetition")
    if repetition is not None:
        repetition = Repetition(**{name: value for name, value in _checked(repetition).items() if name != "repeats"})
    spans = tuple((float(start), float(end)) for start, end in entries.pop("frozen_spans"))
    return LongVideoMetrics(repetition=repetition, frozen_spans=spans, **entries)


def _checked(entries: Any) -> dict[str, Any]:
    """Entries of a JSON object with its lists of numbers as tuples."""
    if not isinstance(entries, Mapping):
        raise TypeError(f"{entries!r} is no JSON object")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in entries.items()}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON number")
