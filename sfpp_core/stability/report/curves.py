"""A video's course over time, in few enough points to be kept and drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..measurement.series import FrameSeries
from ..metrics.drift import color_drift, relative

MAX_POINTS: Final = 1000
"""As many as a plot of 1024 pixels can show."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """Each field holds one value a point in time, and all as many."""

    time: tuple[float, ...]
    """Seconds of the film, rising."""
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
