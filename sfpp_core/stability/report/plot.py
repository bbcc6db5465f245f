"""A stability report as one picture: ratings, damages and curves over the seconds of the film.

Drawn through Matplotlib's objects on an Agg canvas: pyplot would share its state with everything else in the process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

from ..rating import MAX_RATING
from ..score import SegmentRating, clock
from .plot_events import MAX_EVENTS, ROW_PX, draw_lanes, lay_out, num_rows, shade
from .plot_panels import PANELS
from .plot_style import (
    BLUE,
    BODY_POINTS,
    DPI,
    GREY,
    HEADING_POINTS,
    INK,
    LIGHT,
    TITLE_POINTS,
    VERMILION,
    font,
    shortened,
    text_width,
    type_of,
)
from .report import StabilityReport

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
