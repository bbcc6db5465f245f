"""The plot of docs/proof.md over the number of updates: how stable videos are, how far they drift, how they move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sfpp_core.files import replacing
from sfpp_core.stability.plot import BLUE, BODY_POINTS, DPI, GREY, INK, VERMILION, font

from ..evaluation.plots import GREEN, dress
from .findings import arms_of, report

EVALUATION = "updates"
BETWEEN = "_at_"
"""An arm is called METHOD_at_UPDATES."""
LENGTH = "50"
"""Seconds."""
MEASURES = ("stability", "exposure_drift", "hue_drift", "dynamic_degree")
COLOURS = (VERMILION, BLUE, GREEN)
SIDE_STEP = 0.02
"""From method to method, as a share of the number of updates, so that no interval hides another."""


def plot_updates(path: Path) -> None:
    """One panel a measure of videos of 50 s; one line a method, from the student that all began with."""
    arms = arms_of(EVALUATION)
    (start,), truth = report(EVALUATION)["config"]["baselines"], arms[0]
    methods = list(dict.fromkeys(arm.split(BETWEEN)[0] for arm in arms if BETWEEN in arm))
    figure = Figure(figsize=(1024 / DPI, 760 / DPI), dpi=DPI, facecolor="white", layout="constrained")
    for measure, axes in zip(MEASURES, figure.subplots(2, 2).flat, strict=True):
        found = report(EVALUATION)["measures"][measure]

        def estimates(names: list[str], of: dict = found) -> np.ndarray:
            """Mean, low and high, [3, arms]."""
            return np.array([[of["mean"][name][LENGTH][key] for name in names] for key in ("mean", "low", "high")])

        axes.axhline(estimates([truth])[0, 0], color=GREY, linestyle=(0, (5, 2)), label="truth, autoencoded")
        for index, method in enumerate(methods):
            names = [arm for arm in arms if arm.startswith(f"{method}{BETWEEN}")]
            updates = np.array([int(name.split(BETWEEN)[1]) for name in names])
            mean, low, high = estimates([start, *names])
            # On a logarithmic axis the start has no place; it stands left of the first.
            places = np.append(updates[0] / 2, updates) * (1 + SIDE_STEP * index)
            axes.plot(places, mean, color=COLOURS[index], marker="o", markersize=4, label=method)
            axes.vlines(places, low, high, color=COLOURS[index], linewidth=1.2)
        ticks = np.append(updates[0] / 2, updates)
        dress(axes, f"{found['title']}, at {LENGTH} s", ticks, ["0", *map(str, updates)])
        axes.tick_params(axis="x", labelrotation=45)
        axes.set_xlabel("updates", fontproperties=font(BODY_POINTS), color=INK)
    figure.axes[0].legend(prop=font(BODY_POINTS), frameon=False)
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)
