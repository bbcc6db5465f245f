"""The evaluation's findings as pictures: scores against length, drift against time.

Drawn through Matplotlib's objects on an Agg canvas, which opens no window and leaves no state behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from sfpp_core.files import replacing
from sfpp_core.stability.plot import (
    BLUE,
    BODY_POINTS,
    DPI,
    GREY,
    HEADING_POINTS,
    INK,
    LIGHT,
    ORANGE,
    PURPLE,
    TITLE_POINTS,
    VERMILION,
    font,
    text_width,
    type_of,
)

from .results import Results

WIDTH_PX: Final = 1024
PANEL_PX: Final = 330
SMALL_PANEL_PX: Final = 200
# The rest of Okabe and Ito's colours that read on white.
GREEN, SKY, BROWN = "#009E73", "#56B4E9", "#7a5c00"
COLOURS: Final = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BROWN)
DASHES: Final = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
"""A second and a third turn through the colours."""
SIDE_STEP: Final = 0.004
"""From arm to arm, of the width of the axis."""
_LEFT, _RIGHT, _TITLE, _KEY, _LINE, _GAP, _FOOT = 70, 24, 38, 20, 36, 48, 44


def plot_measures(found: dict[str, Any], names: Sequence[str], results: Results, title: str, path: Path) -> None:
    """Means with their 95 % intervals against length, one panel a measure, one line an arm."""
    names = [name for name in names if name in found]
    page = _Sheet(title, results, [PANEL_PX] * len(names), path)
    seconds = np.array([float(length) for length in results.lengths])
    reach = max(2.0, seconds[-1] / seconds[0])
    for name, axes in zip(names, page.panels, strict=True):
        dress(axes, found[name]["title"], seconds)
        for index, arm in enumerate(results.arms):
            estimates = [found[name]["mean"][arm][length] for length in results.lengths]
            mean, low, high = (
                np.array([np.nan if estimate[key] is None else estimate[key] for estimate in estimates])
                for key in ("mean", "low", "high")
            )
            # Arms stand side by side at a length, so that no interval hides another.
            shifted = seconds * reach ** (SIDE_STEP * (index - (len(results.arms) - 1) / 2))
            axes.plot(shifted, mean, **page.style(arm), marker="o", markersize=4)
            axes.vlines(shifted, low, high, color=page.style(arm)["color"], linewidth=1.2)
        if name in ("stability", "stability_end"):
            axes.set_ylim(0, 102)
    page.save()


def plot_drift(results: Results, edges: np.ndarray, path: Path) -> None:
    """Mean distance from the first seconds over time, by quantity, with the middle half of the videos shaded."""
    titles = {
        "exposure": "Exposure: change of mean luma, either way",
        "hue": "Hue: CIELAB distance of the mean colour",
        "contrast": "Contrast: change of the deviation of luma, either way",
    }
    page = _Sheet("Drift from a video's own first seconds", results, [SMALL_PANEL_PX] * len(titles), path)
    middles = (edges[:-1] + edges[1:]) / 2
    ticks = np.array([float(length) for length in results.lengths])
    for (quantity, title), axes in zip(titles.items(), page.panels, strict=True):
        dress(axes, title, np.unique(np.append(ticks, 1.0)))
        for arm in results.arms:
            curves = np.abs(results.curve(quantity, arm))
            style = page.style(arm)
            shown = middles[: curves.shape[1]]
            low, high = np.quantile(curves, (0.25, 0.75), axis=0)
            axes.fill_between(shown, low, high, color=style["color"], alpha=0.10, linewidth=0)
            axes.plot(shown, curves.mean(axis=0), **style)
        axes.set_ylim(bottom=0)
    page.save()


class _Sheet:
    """A figure of panels one below the other, under a title and a key to the arms."""

    def __init__(self, title: str, results: Results, heights: Sequence[int], path: Path) -> None:
        self._results, self._path = results, path
        arms = results.arms
        shown = WIDTH_PX - _LEFT - _RIGHT
        widest = max(_LINE + _KEY + text_width(arm, BODY_POINTS) for arm in arms)
        columns = max(1, min(4, int(shown / widest)))
        rows = -(-len(arms) // columns)
        top = _TITLE + rows * _KEY
        height = top + sum(heights) + _GAP * len(heights) + _FOOT
        self._figure = Figure(figsize=(WIDTH_PX / DPI, height / DPI), dpi=DPI, facecolor="white")
        self._figure.text(_LEFT / WIDTH_PX, 1 - 0.65 * _TITLE / height, title, **type_of(TITLE_POINTS, bold=True))
        for index, arm in enumerate(arms):
            self._name(arm, index % columns * shown / columns, _TITLE + index // columns * _KEY)
        self.panels = []
        below = top
        for panel in heights:
            below += _GAP + panel
            box = (_LEFT / WIDTH_PX, 1 - below / height, 1 - (_LEFT + _RIGHT) / WIDTH_PX, panel / height)
            self.panels.append(self._figure.add_axes(box))
        self.panels[-1].set_xlabel("seconds of video", fontproperties=font(BODY_POINTS), color=INK)

    def style(self, arm: str) -> dict[str, Any]:
        """Colour and dashes of an arm's line; the truth is grey."""
        truths = self._results.truths
        if arm in truths:
            return {"color": GREY, "linestyle": DASHES[1 + truths.index(arm) % 2], "linewidth": 1.6}
        others = [name for name in self._results.arms if name not in truths]
        turn, colour = divmod(others.index(arm), len(COLOURS))
        return {"color": COLOURS[colour], "linestyle": DASHES[turn % len(DASHES)], "linewidth": 2.0}

    def save(self) -> None:
        """Write the PNG, whole or not at all."""
        canvas = FigureCanvasAgg(self._figure)
        with replacing(self._path) as temporary:
            canvas.print_png(temporary)

    def _name(self, arm: str, x: float, y: float) -> None:
        """An entry of the key at pixels from the panels' left edge and from the top."""
        width, height = self._figure.get_size_inches() * DPI
        axes = self._figure.add_axes(((_LEFT + x) / width, 1 - (y + _KEY) / height, (_LINE - 6) / width, _KEY / height))
        axes.plot((0, 1), (0.5, 0.5), **self.style(arm))
        axes.set_axis_off()
        self._figure.text((_LEFT + x + _LINE) / width, 1 - (y + 0.68 * _KEY) / height, arm, **type_of(BODY_POINTS))


def dress(axes: Axes, title: str, ticks: np.ndarray, labels: Sequence[str] | None = None) -> None:
    """Title, a logarithmic axis with these ticks, called by their numbers unless told, a light grid, no box."""
    axes.set_title(title, loc="left", fontproperties=font(HEADING_POINTS, bold=True), color=INK)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(labels or [f"{tick:g}" for tick in ticks])
    axes.set_xlim(ticks[0] / 1.25, ticks[-1] * 1.25)
    axes.grid(color=LIGHT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=GREY, length=0)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_fontproperties(font(BODY_POINTS))
    for spine in axes.spines.values():
        spine.set_visible(False)
