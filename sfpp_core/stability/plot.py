"""A stability report as one picture: ratings, damages and curves over the seconds of the video.

Drawn through Matplotlib's objects on an Agg canvas: pyplot would share its state with everything else in the process.
The curves are exposure, detail, colour and motion. Each function fills axes whose unit is seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from .measure import JUST_NOTICEABLE
from .metrics import DYNAMIC_SPEED
from .offline.judge import Event
from .report import StabilityReport
from .score import MAX_RATING, SegmentRating, clock

DPI: Final = 100

# Okabe and Ito's colours, which all kinds of colour vision tell apart; purple is theirs, dark enough for white type.
BLUE: Final = "#0072B2"
ORANGE: Final = "#E69F00"
VERMILION: Final = "#D55E00"
PURPLE: Final = "#8a3f6c"
INK: Final = "#1b1f24"
GREY: Final = "#66707a"
LIGHT: Final = "#d9dee3"

TITLE_POINTS: Final = 13.0
HEADING_POINTS: Final = 9.5
BODY_POINTS: Final = 8.5

_POINTS_PER_INCH: Final = 72


def font(points: float, *, bold: bool = False) -> FontProperties:
    """Matplotlib's own typeface, whatever another program made the default."""
    return FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal", size=points)


def type_of(points: float, *, bold: bool = False, color: str = INK) -> dict[str, Any]:
    """Keywords for a text. Dollar signs are dollar signs: names of files and words of judges are no formulas."""
    return {"fontproperties": font(points, bold=bold), "color": color, "parse_math": False}


def text_width(text: str, points: float, *, bold: bool = False) -> float:
    """Width of a line of text in pixels."""
    width, _, _ = text_to_path.get_text_width_height_descent(text, font(points, bold=bold), ismath=False)
    return width * DPI / _POINTS_PER_INCH


def shortened(text: str, max_px: float, points: float, *, bold: bool = False) -> str:
    """`text`, or its beginning and end with an ellipsis between them, so that it fits into a width."""
    keep = len(text)
    short = text
    while keep > 2 and text_width(short, points, bold=bold) > max_px:
        keep -= 1
        short = f"{text[: (keep + 1) // 2]}\u2026{text[len(text) - keep // 2 :]}"
    return short


ROW_PX: Final = 18
MAX_EVENTS: Final = 16
"""More would fill the page; the strongest are shown."""
_BAR_PX: Final = 11
_NARROWEST_BAR_PX: Final = 4
_SPACE_PX: Final = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """The place of an event's label; pixels from the left edge of the panels."""

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


_Values = NDArray[np.floating] | tuple[float, ...]
_LARGEST_RATIO: Final = 16.0
_SPIKE: Final = 4.0  # times the 98th percentile: what is above that would flatten the rest of the curve


def exposure(axes: Axes, report: StabilityReport) -> str:
    """Mean luma, with the clipped share hanging from the top and the crushed share standing on the bottom."""
    curves = report.curves
    top = 1 - np.array(curves.highlights)
    axes.fill_between(curves.time, top, 1, color=ORANGE, alpha=0.85, linewidth=0, label="clipped highlights")
    axes.fill_between(curves.time, 0, curves.shadows, color=INK, alpha=0.6, linewidth=0, label="crushed shadows")
    _draw(axes, curves.time, curves.luminance, BLUE, "mean luma")
    axes.set_ylim(0, 1)
    axes.set_yticks((0, 0.5, 1), ("0", "50 %", "100 %"))
    return f"Exposure: ends {round(100 * report.metrics.exposure_drift):+d} % from the start"


def detail(axes: Axes, report: StabilityReport) -> str:
    """Contrast and sharpness as multiples of the start, each doubling alike."""
    curves = report.curves
    contrast, sharpness = (
        np.clip(values, 1 / _LARGEST_RATIO, _LARGEST_RATIO) for values in (curves.contrast, curves.sharpness)
    )
    axes.set_yscale("log", base=2)
    axes.axhline(1, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    _draw(axes, curves.time, sharpness, ORANGE, "sharpness")
    _draw(axes, curves.time, contrast, BLUE, "contrast")
    doublings = int(np.ceil(max(1.0, *np.abs(np.log2(np.concatenate((contrast, sharpness)))))))
    ticks = [2.0**power for power in range(-doublings, doublings + 1, 1 if doublings <= 2 else 2)]
    axes.set_ylim(2.0**-doublings / 1.1, 2.0**doublings * 1.1)
    axes.set_yticks(ticks, [f"\u00d7{tick:.2g}" for tick in ticks])
    axes.minorticks_off()
    return "Detail: relative to the start"


def color(axes: Axes, report: StabilityReport) -> str:
    """Distance of the mean colour from the start."""
    curves = report.curves
    axes.axhline(JUST_NOTICEABLE, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), label="just noticeable")
    _draw(axes, curves.time, curves.color_drift, BLUE, "CIELAB distance")
    axes.set_ylim(0, max(4 * JUST_NOTICEABLE, 1.1 * max(curves.color_drift)))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    return f"Colour: ends {report.metrics.color_drift:.1f} from the start"


def motion(axes: Axes, report: StabilityReport) -> str:
    """Optical flow; what would flatten the rest of the curve leaves the panel at the top, with a mark."""
    time, flow = np.array(report.curves.time), np.array(report.curves.flow)
    usual = max(DYNAMIC_SPEED / 2, _SPIKE * float(np.percentile(flow, 98)))
    top = 1.15 * min(float(flow.max()), usual) or usual
    _draw(axes, time, flow, BLUE, "flow, picture heights a second")
    beyond = flow > top
    axes.plot(time[beyond], np.full(beyond.sum(), 0.93 * top), "^", color=BLUE, markersize=5, linewidth=0)
    for index, (start, end) in enumerate(report.metrics.frozen_spans):
        label = None if index else "frozen"
        axes.plot((start, end), (0, 0), color=INK, linewidth=5, solid_capstyle="butt", clip_on=False, label=label)
    axes.set_ylim(0, top)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    degree = report.metrics.dynamic_degree
    return "Motion" if degree is None else f"Motion: dynamic in {round(100 * degree)} % of the video"


PANELS: Final = (exposure, detail, color, motion)


def _draw(axes: Axes, time: _Values, values: _Values, ink: str, label: str) -> None:
    """A line, or a dot where the video is a single picture."""
    dot = {"marker": "o", "markersize": 5, "clip_on": False} if len(time) == 1 else {}
    axes.plot(time, values, color=ink, label=label, linewidth=1.4, solid_joinstyle="round", **dot)


WIDTH_PX: Final = 1024
# Pixels: beside the panels, and from the top down.
_LEFT, _RIGHT = 64, 24
_HEAD, _STRIP, _GAP, _HEADING, _PANEL, _SPACE, _FOOT = 74, 28, 12, 24, 118, 10, 34
_INNER: Final = WIDTH_PX - _LEFT - _RIGHT

_TICK_SECONDS: Final = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600)
_MAX_TICKS: Final = 9
_RATING_COLORS: Final = LinearSegmentedColormap.from_list("rating", (VERMILION, "#f0e6da", BLUE))


class _Page:
    """A figure that is filled from the top down, in pixels."""

    def __init__(self, height: int) -> None:
        self.figure = Figure(figsize=(WIDTH_PX / DPI, height / DPI), dpi=DPI, facecolor="white")
        self.canvas = FigureCanvasAgg(self.figure)
        self._height = height
        self._y = 0

    def skip(self, pixels: int) -> None:
        self._y += pixels

    def axes(self, height: int) -> Axes:
        """Axes over the width of the panels, below everything before."""
        self._y += height
        box = (_LEFT / WIDTH_PX, 1 - self._y / self._height, _INNER / WIDTH_PX, height / self._height)
        axes = self.figure.add_axes(box, facecolor="none")
        for spine in axes.spines.values():
            spine.set_visible(False)
        return axes

    def text(self, x: float, y: float, text: str, **keywords: object) -> None:
        """Text whose baseline starts at pixels from the left and from the top."""
        self.figure.text(x / WIDTH_PX, 1 - y / self._height, text, **keywords)

    def image(self) -> Image.Image:
        self.canvas.draw()
        return Image.fromarray(np.asarray(self.canvas.buffer_rgba())[..., :3].copy())


def plot_report(report: StabilityReport) -> Image.Image:
    """The report as an RGB picture, 1024 pixels wide; events make it higher where their names need more rows."""
    segments = report.stability.segments
    span = (segments[0].start, segments[-1].end)
    labels = lay_out(report.events, span, _INNER)
    lanes = ROW_PX * num_rows(labels)
    below = _SPACE if labels else 0
    page = _Page(_HEAD + _STRIP + _GAP + lanes + below + len(PANELS) * (_HEADING + _PANEL + _SPACE) + _FOOT)
    _draw_head(page, report)
    page.skip(_HEAD)
    _draw_ratings(page.axes(_STRIP), segments, span)
    page.skip(_GAP)
    if labels:
        axes = page.axes(lanes)
        axes.set(xlim=(0, _INNER), ylim=(lanes, 0), xticks=(), yticks=())
        draw_lanes(axes, labels)
    page.skip(below)
    for panel in PANELS:
        page.skip(_HEADING)
        axes = page.axes(_PANEL)
        shade(axes, report.events)
        heading = panel(axes, report)
        _finish(axes, heading, span, last=panel is PANELS[-1])
        page.skip(_SPACE)
    return page.image()


def _draw_head(page: _Page, report: StabilityReport) -> None:
    score = f"{report.stability.score:.1f}"
    number = {"points": 1.6 * TITLE_POINTS, "bold": True}
    right = WIDTH_PX - _RIGHT
    page.text(right, 40, score, ha="right", **type_of(**number))
    page.text(right, 58, "Visual Stability, of 100", ha="right", **type_of(BODY_POINTS, color=GREY))
    title = shortened(report.video, _INNER - 180, TITLE_POINTS, bold=True)
    page.text(_LEFT, 38, title, **type_of(TITLE_POINTS, bold=True))
    hidden = len(report.events) - MAX_EVENTS
    found = f"{len(report.events) or 'no'} event{'' if len(report.events) == 1 else 's'} found"
    more = f", the {MAX_EVENTS} strongest named below" if hidden > 0 else ""
    judge = shortened(report.stability.judge, 320, BODY_POINTS)
    page.text(_LEFT, 58, f"Rated by {judge}; {found}{more}", **type_of(BODY_POINTS, color=GREY))


def _draw_ratings(axes: Axes, segments: Sequence[SegmentRating], span: tuple[float, float]) -> None:
    """One field a segment, coloured by its rating, with the number where it fits."""
    axes.set(xlim=span, ylim=(0, 1), xticks=())
    axes.set_yticks((0.5,), ("rating",))
    _dress_ticks(axes)
    pixels_a_second = _INNER / (span[1] - span[0])
    for segment in segments:
        color = _RATING_COLORS(segment.rating / MAX_RATING)
        length = segment.end - segment.start
        border = 0.8 if pixels_a_second * length > 12 else 0
        axes.barh(0.5, length, left=segment.start, height=1, color=color, edgecolor="white", linewidth=border)
        number = f"{segment.rating:.1f}"
        if text_width(number, BODY_POINTS) + 4 <= pixels_a_second * length:
            dark = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] < 0.5
            ink = type_of(BODY_POINTS, bold=True, color="white" if dark else INK)
            middle = (segment.start + segment.end) / 2
            axes.text(middle, 0.5, number, ha="center", va="center_baseline", **ink)


def _finish(axes: Axes, heading: str, span: tuple[float, float], *, last: bool) -> None:
    """Time axis, grid, heading and legend of a panel."""
    ticks = _ticks(span)
    axes.set_xlim(span)
    axes.set_xticks(ticks, [_minutes(tick) for tick in ticks] if last else [])
    axes.grid(axis="both", color=LIGHT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines["bottom"].set(visible=True, color=GREY, linewidth=0.8)
    _dress_ticks(axes)
    axes.text(0, 1.06, heading, transform=axes.transAxes, **type_of(HEADING_POINTS, bold=True))
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=3,
        borderaxespad=0.2,
        borderpad=0.1,
        columnspacing=1.4,
        handlelength=1.4,
        frameon=False,
        prop=font(BODY_POINTS),
        labelcolor=INK,
    )


def _dress_ticks(axes: Axes) -> None:
    axes.tick_params(length=0, pad=5, colors=GREY)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_fontproperties(font(BODY_POINTS))


def _ticks(span: tuple[float, float]) -> list[float]:
    """Round times within a span, ten at most."""
    length = span[1] - span[0]
    step = next((step for step in _TICK_SECONDS if length / step <= _MAX_TICKS), length / _MAX_TICKS)
    return [index * step for index in range(int(np.ceil(span[0] / step)), int(span[1] / step + 1e-6) + 1)]


def _minutes(seconds: float) -> str:
    """m:ss, with tenths only where they say something."""
    return clock(seconds).removesuffix(".0")
