"""The damages of a video as events: what, from when to when, how bad."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..score import clock
from .assessment import Assessment, Damage

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
    """What was measured at the worst moment, and what it would have been without drift."""
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
