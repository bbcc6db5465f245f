"""Everything that was found out about a video, as one value that travels as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..measurement.series import FrameSeries
from ..metrics.long_video import LongVideoMetrics
from ..metrics.repetition import Repetition
from ..offline.assessment import Damage
from ..offline.events import Event
from ..score import SegmentRating, VisualStability
from .curves import Curves

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
                "make the report anew."
            )
        try:
            return _read(entries)
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as problem:
            raise ReportError(f"The report is damaged ({problem!r}); make it anew.") from problem


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
