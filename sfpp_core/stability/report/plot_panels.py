"""The four curves of a plot: exposure, detail, colour, motion. Each function fills axes whose unit is seconds."""

from __future__ import annotations

from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ..measurement.cielab import JUST_NOTICEABLE
from ..metrics.motion import DYNAMIC_SPEED
from .plot_style import BLUE, GREY, INK, ORANGE
from .report import StabilityReport

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
    return "Motion" if degree is None else f"Motion: dynamic in {round(100 * degree)} % of the film"


PANELS: Final = (exposure, detail, color, motion)


def _draw(axes: Axes, time: _Values, values: _Values, ink: str, label: str) -> None:
    """A line, or a dot where the film is a single picture."""
    dot = {"marker": "o", "markersize": 5, "clip_on": False} if len(time) == 1 else {}
    axes.plot(time, values, color=ink, label=label, linewidth=1.4, solid_joinstyle="round", **dot)
