"""The damages in a plot: a bar and a name for each, in as few rows as keep the names apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from matplotlib.axes import Axes

from ..offline.events import Event
from .plot_style import BODY_POINTS, INK, PURPLE, text_width, type_of

ROW_PX: Final = 18
MAX_EVENTS: Final = 16
"""More would fill the page; the strongest are shown."""
_BAR_PX: Final = 11
_NARROWEST_BAR_PX: Final = 4
_SPACE_PX: Final = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """Where an event is drawn; pixels from the left edge of the panels."""

    event: Event
    row: int
    bar: tuple[float, float]
    text: float
    """Where its name begins."""
    inside: bool
    """Whether the name stands in the bar."""


def lay_out(events: Sequence[Event], span: tuple[float, float], width: float) -> tuple[Label, ...]:
    """The strongest events, none on top of another, on an axis of `width` pixels that shows `span` seconds."""
    shown = sorted(events, key=lambda event: -event.strength)[:MAX_EVENTS]
    rows: list[float] = []  # pixels that each row is taken up to
    labels = []
    for event in sorted(shown, key=lambda event: (event.start, event.end)):
        bar, text, inside, extent = _place(event, span, width)
        row = next((index for index, taken in enumerate(rows) if taken + _SPACE_PX <= extent[0]), len(rows))
        rows[row : row + 1] = [extent[1]]
        labels.append(Label(event=event, row=row, bar=bar, text=text, inside=inside))
    return tuple(labels)


def num_rows(labels: Sequence[Label]) -> int:
    """Rows that labels take up."""
    return max((label.row for label in labels), default=-1) + 1


def draw_lanes(axes: Axes, labels: Sequence[Label]) -> None:
    """Bars and names; `axes` has pixels for its units, rows from the top down."""
    for label in labels:
        middle = (label.row + 0.5) * ROW_PX
        start, end = label.bar
        axes.barh(middle, end - start, left=start, height=_BAR_PX + 3 * label.inside, color=PURPLE, linewidth=0)
        color = "white" if label.inside else INK
        axes.text(label.text, middle, label.event.kind, va="center_baseline", **type_of(BODY_POINTS, color=color))


def shade(axes: Axes, events: Sequence[Event]) -> None:
    """Mark events in a panel whose unit is seconds, as dark as the strongest at a time; a line where one begins."""
    edges = sorted({edge for event in events for edge in (event.start, event.end)})
    for start, end in pairwise(edges):
        strengths = [event.strength for event in events if event.start <= start and end <= event.end]
        if strengths:
            axes.axvspan(start, end, color=PURPLE, alpha=0.07 + 0.13 * max(strengths), linewidth=0, zorder=0)
    for event in events:
        axes.axvline(event.start, color=PURPLE, alpha=0.45, linewidth=0.7, zorder=0)


def _place(
    event: Event, span: tuple[float, float], width: float
) -> tuple[tuple[float, float], float, bool, tuple[float, float]]:
    """Bar, beginning of the name, whether that is inside, and the pixels taken up; left of the bar if need be."""
    scale = width / (span[1] - span[0])
    start = min(max((event.start - span[0]) * scale, 0.0), width - _NARROWEST_BAR_PX)
    end = min(max((event.end - span[0]) * scale, start + _NARROWEST_BAR_PX), width)
    name = text_width(event.kind, BODY_POINTS)
    if name + 2 * _SPACE_PX <= end - start:
        return (start, end), start + _SPACE_PX, True, (start, end)
    if end + _SPACE_PX + name <= width:
        return (start, end), end + _SPACE_PX, False, (start, end + _SPACE_PX + name)
    text = start - _SPACE_PX - name
    return (start, end), text, False, (text, end)
