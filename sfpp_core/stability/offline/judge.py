"""The offline judge: rates from measured pixels, with no model and no network. It is not the paper's judge.

Detectors give the severity of each kind of damage in each frame (`Assessment`). Events are the spans where it is above
a threshold, and the rating follows from both. Axes: F frames.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

import numpy as np

from ...video.span import VideoSpan
from ..measure import FrameSeries, measure
from ..score import MAX_RATING, Rating, clock
from .detectors import blur, colour_cast, contrast_loss, darkening, flicker, freeze, noise, over_exposure
from .loops import find_loops
from .shots import Shots, window_frames


class Damage(str, Enum):
    """The kinds of damage that the offline judge knows."""

    OVER_EXPOSURE = "over-exposure"
    DARKENING = "darkening"
    CONTRAST_LOSS = "contrast loss"
    COLOUR_CAST = "colour cast"
    BLUR = "blur"
    FREEZE = "freeze"
    FLICKER = "flicker"
    NOISE = "noise"
    CUT = "cut"
    LOOP = "loop"

    def __str__(self) -> str:
        return self.value


_DETECTORS: Final = {
    Damage.OVER_EXPOSURE: over_exposure,
    Damage.DARKENING: darkening,
    Damage.CONTRAST_LOSS: contrast_loss,
    Damage.COLOUR_CAST: colour_cast,
    Damage.BLUR: blur,
    Damage.FREEZE: freeze,
    Damage.FLICKER: flicker,
    Damage.NOISE: noise,
}
# Videos are cut, and a cut is soon over: even one to another world costs less than a point of a segment.
_CUT_WORST: Final = 0.25
_CUT_SECONDS: Final = 0.5
_LOOP_WORST: Final = 0.8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Assessment:
    """The findings in a series."""

    shots: Shots
    severities: dict[Damage, np.ndarray]
    """For each kind [F], from 0 (none) to 1 (nothing left)."""

    @property
    def series(self) -> FrameSeries:
        """The series that was assessed."""
        return self.shots.series

    def without(self, kinds: Collection[Damage]) -> Assessment:
        """Return the same, as if nothing of these kinds had been found."""
        nothing = np.zeros(len(self.series))
        return replace(self, severities={**self.severities, **dict.fromkeys(kinds, nothing)})

    def shares(self, frames: slice = slice(None)) -> dict[Damage, float]:
        """Return what each kind takes of some frames, 0 (nothing) to 1: the root mean square of its severity.

        So a moment that is lost counts for more than its length: one second of ten takes a third, half of the time
        70 %.
        """
        return {kind: float(np.sqrt(np.mean(severity[frames] ** 2))) for kind, severity in self.severities.items()}

    def quality(self, frames: slice = slice(None)) -> float:
        """Return what is left of some frames, 1 (all) to 0: each kind takes its share of what the others leave."""
        return float(np.prod([1 - share for share in self.shares(frames).values()]))


def assess(series: FrameSeries) -> Assessment:
    """Look for every kind of damage; comparisons are with the first seconds of the series."""
    shots = Shots.of(series)
    found = {kind: detector(shots) for kind, detector in _DETECTORS.items()}
    return Assessment(shots=shots, severities={**found, Damage.CUT: _cuts(shots), Damage.LOOP: _loops(shots)})


def _cuts(shots: Shots) -> np.ndarray:
    severity = np.zeros(len(shots.series))
    length = window_frames(_CUT_SECONDS, shots.series.rate)
    for cut in shots.cuts:
        span = slice(cut.frame, cut.frame + length)
        severity[span] = np.maximum(severity[span], _CUT_WORST * np.sqrt(cut.distance))
    return severity


def _loops(shots: Shots) -> np.ndarray:
    severity = np.zeros(len(shots.series))
    for loop in find_loops(shots.series):
        severity[loop.first : loop.last] = _LOOP_WORST
    return severity


# What a viewer would hardly notice is no event; a span that was one lasts for as long as traces of it remain.
_NOTICED: Final = 0.08
_TRACE: Final = 0.04
# Two spans of a kind with less than this between them are one.
_PAUSE_SECONDS: Final = 1.0
_EDGE_SECONDS: Final = 0.5
_DEGREES: Final = ((0.3, "slight"), (0.65, "clear"), (1.01, "severe"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """A damage that was found."""

    kind: Damage
    start: float
    """Seconds from the video's start."""
    end: float
    strength: float
    """0 (nothing) to 1 (nothing left): the worst moment."""
    description: str
    """A phrase that names kind, degree and time, e.g. "clear blur 0:12.0-0:20.5 (sharpness 0.33 instead of 0.71)"."""

    def __post_init__(self) -> None:
        if not (0 <= self.start <= self.end and 0 <= self.strength <= 1):
            raise ValueError(
                f"{self.kind} from {self.start} to {self.end} seconds of strength {self.strength}: an event ends after "
                "it starts, and its strength lies between 0 and 1."
            )


def events_of(assessment: Assessment, start: float = 0.0, end: float = np.inf) -> list[Event]:
    """The events of an assessment that touch the span from `start` to before `end` seconds, cut to it."""
    series = assessment.series
    first, last = (int(index) for index in np.searchsorted(series.time, (start, end)))
    events = []
    for kind, severity in assessment.severities.items():
        if kind is not Damage.CUT:
            spans = (_within(span, first, last, series.rate) for span in _spans(severity, series.rate))
            events += [
                _event(kind, assessment, begin, stop)
                for begin, stop in spans
                if begin < stop and severity[begin:stop].max() > _NOTICED
            ]
    events += [
        _event(Damage.CUT, assessment, cut.frame, cut.frame + 1)
        for cut in assessment.shots.cuts
        if first <= cut.frame < last
    ]
    return sorted(events, key=lambda event: (event.start, -event.strength))


def _within(span: tuple[int, int], first: int, last: int, rate: float) -> tuple[int, int]:
    """The part of a span of frames in another; none where only the edge of it reaches in, which is never so exact."""
    begin, stop = max(span[0], first), min(span[1], last)
    least = min(_EDGE_SECONDS * rate, (span[1] - span[0]) / 2)
    return (begin, stop) if stop - begin >= least else (begin, begin)


def _spans(severity: np.ndarray, rate: float) -> list[tuple[int, int]]:
    """First and last (not included) frame of each stretch that leaves traces and is noticed somewhere."""
    traces = np.flatnonzero(severity > _TRACE)
    if not len(traces):
        return []
    gaps = np.flatnonzero(np.diff(traces) > max(1.0, _PAUSE_SECONDS * rate))
    bounds = zip([0, *(gaps + 1)], [*gaps, len(traces) - 1], strict=True)
    spans = [(int(traces[begin]), int(traces[stop]) + 1) for begin, stop in bounds]
    return [(begin, stop) for begin, stop in spans if severity[begin:stop].max() > _NOTICED]


def _event(kind: Damage, assessment: Assessment, first: int, last: int) -> Event:
    series = assessment.series
    strength = float(assessment.severities[kind][first:last].max())
    start, end = float(series.time[first]), float(series.time[last - 1] + 1 / series.rate)
    when = f"at {clock(start)}" if kind is Damage.CUT else f"{clock(start)}-{clock(end)}"
    degree = next(word for limit, word in _DEGREES if strength < limit)
    return Event(
        kind=kind,
        start=start,
        end=end,
        strength=strength,
        description=f"{_NAMES[kind].format(degree=degree)} {when}{_evidence(kind, assessment, first, last)}",
    )


def _evidence(kind: Damage, assessment: Assessment, first: int, last: int) -> str:
    """Return what was measured at the worst moment, and what it would have been without drift."""
    found = []
    for label, field, worst in _EVIDENCE.get(kind, ()):
        values = getattr(assessment.series, field)
        frame = first + int(worst(values[first:last]))
        undamaged = max(0.0, float(values[frame] - assessment.shots.drift(values)[frame]))
        found.append(f"{label} {values[frame]:.2g} instead of {undamaged:.2g}")
    return f" ({'; '.join(found)})" if found else ""


_NAMES: Final = {
    Damage.OVER_EXPOSURE: "{degree} over-exposure",
    Damage.DARKENING: "{degree} darkening",
    Damage.CONTRAST_LOSS: "{degree} contrast loss",
    Damage.COLOUR_CAST: "{degree} colour cast",
    Damage.BLUR: "{degree} blur",
    Damage.FREEZE: "freeze, the picture stands still",
    Damage.FLICKER: "{degree} flicker",
    Damage.NOISE: "{degree} noise",
    Damage.CUT: "hard cut",
    Damage.LOOP: "loop, earlier footage comes again",
}
# Label, field of the series, and which extreme of it is the worst.
_EVIDENCE: Final[dict[Damage, tuple[tuple[str, str, Callable[[np.ndarray], np.intp]], ...]]] = {
    Damage.OVER_EXPOSURE: (("mean luma", "luminance", np.argmax), ("share blown out", "highlights", np.argmax)),
    Damage.DARKENING: (("mean luma", "luminance", np.argmin), ("share crushed", "shadows", np.argmax)),
    Damage.CONTRAST_LOSS: (("contrast", "contrast", np.argmin),),
    Damage.BLUR: (("sharpness", "sharpness", np.argmin),),
    Damage.NOISE: (("noise", "noise", np.argmax),),
}


_NO_DAMAGE: Final = "exposure, colour, detail and motion hold as in the first seconds"


class OfflineJudge:
    """Compares every frame of a video with the video's own first seconds; see docs/stability.md.

    measure: gives the series of a whole video, for a caller that has measured it already. The judge assesses the same
        video only once in a row.
    unheeded: kinds of damage that are none in these videos, such as loops where the subject itself is periodic.
    """

    name = "offline-4"
    """Raised with every change of what is rated: ledgers keep ratings by it."""

    def __init__(
        self, measure: Callable[[VideoSpan], FrameSeries] = measure, *, unheeded: Collection[Damage] = ()
    ) -> None:
        self._measure = measure
        self._unheeded = unheeded
        if unheeded:
            self.name = f"{OfflineJudge.name} without {', '.join(sorted(unheeded))}"
        self._known: tuple[VideoSpan, Assessment] | None = None

    def rate(self, video: VideoSpan, prompt: str) -> Rating:
        """Rate a span. The prompt is not looked at: pixels do not tell whether it asked for a storm.

        Raises:
            VideoFileError: the file is damaged or cut short.
        """
        assessment = self.assessment(video)
        first, last = np.searchsorted(assessment.series.time, (video.start, video.end))
        first = min(first, len(assessment.series) - 1)
        rating = MAX_RATING * assessment.quality(slice(first, max(last, first + 1)))
        return Rating(explanation=_explanation(video, events_of(assessment, video.start, video.end)), rating=rating)

    def assessment(self, video: VideoSpan) -> Assessment:
        """Return what was found in the whole video that `video` is a span of.

        Raises:
            VideoFileError: the file is damaged or cut short.
        """
        if self._known is None or self._known[0] != video.whole:
            self._known = (video.whole, assess(self._measure(video.whole)).without(self._unheeded))
        return self._known[1]


def _explanation(video: VideoSpan, events: list[Event]) -> str:
    found = "; ".join(event.description for event in events) or _NO_DAMAGE
    return f"Offline judge, {clock(video.start)}-{clock(video.end)}: {found}."
