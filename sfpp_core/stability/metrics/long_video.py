"""The figures of a long video: how it moves, flickers, drifts and repeats."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from ..measurement.series import FrameSeries
from .drift import color_drift, exposure_drift
from .flicker import brightness_flicker, flicker_score
from .motion import dynamic_windows, flow_spikes, flow_variances, frozen_spans
from .repetition import Repetition, closest_repetition


@dataclass(frozen=True, kw_only=True, slots=True)
class LongVideoMetrics:
    """Summary of a video of any length; None where it is too short to tell."""

    dynamic_degree: float | None
    """Share of 2-second windows that are dynamic, 0 to 1: `motion.dynamic_windows`."""
    mean_flow: float | None
    """Mean optical-flow magnitude in picture heights a second."""
    flow_variance: float | None
    """Mean variance of the flow in windows of 8 frames, (picture heights a second) squared: `motion.flow_variances`."""
    flow_spikes: tuple[float, ...]
    """Seconds at which the flow leaps: `motion.flow_spikes`."""
    flicker_score: float | None
    """VBench's temporal flickering, 1 for a picture that never changes: `flicker.flicker_score`."""
    brightness_flicker: float | None
    """Mean distance of a frame's luma from the line between its neighbours: `flicker.brightness_flicker`."""
    exposure_drift: float
    """Mean luma of the last second minus that of the first seconds, display values: `drift.exposure_drift`."""
    largest_exposure_drift: float
    """The same for the second that is furthest off; its sign says which way."""
    color_drift: float
    """CIELAB distance of the last second's mean colour from that of the first seconds: `drift.color_drift`."""
    largest_color_drift: float
    """The same for the second that is furthest off."""
    repetition: Repetition | None
    """The closest that the video comes to playing its beginning again, for RIFLEx's NoRepeat: `repetition`."""
    frozen_spans: tuple[tuple[float, float], ...]
    """Start and end in seconds of stretches in which the picture stands still: `motion.frozen_spans`."""
    frozen_share: float
    """Share of the video that they take up, 0 to 1."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not isinstance(value, (tuple, Repetition)) and not math.isfinite(value):
                raise ValueError(f"{field.name} is {value}; a figure that cannot be told is None.")
        for name in ("dynamic_degree", "flicker_score", "frozen_share"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; it is a share from 0 to 1.")

    @classmethod
    def of(cls, series: FrameSeries) -> LongVideoMetrics:
        """The figures of a video that was measured."""
        has_pairs = len(series) > 1
        variances = flow_variances(series)
        exposure, color = _by_second(series, exposure_drift(series)), _by_second(series, color_drift(series))
        frozen = frozen_spans(series)
        duration = float(series.time[-1] - series.time[0]) + 1 / series.rate
        return cls(
            dynamic_degree=float(dynamic_windows(series).mean()) if has_pairs else None,
            mean_flow=float(series.flow[1:].mean()) if has_pairs else None,
            flow_variance=float(variances.mean()) if len(variances) else None,
            flow_spikes=tuple(map(float, flow_spikes(series))),
            flicker_score=flicker_score(series) if has_pairs else None,
            brightness_flicker=float(brightness_flicker(series).mean()) if len(series) > 2 else None,
            exposure_drift=float(exposure[-1]),
            largest_exposure_drift=float(exposure[np.argmax(np.abs(exposure))]),
            color_drift=float(color[-1]),
            largest_color_drift=float(color.max()),
            repetition=closest_repetition(series),
            frozen_spans=frozen,
            frozen_share=min(1.0, sum(end - start for start, end in frozen) / duration),
        )


def _by_second(series: FrameSeries, values: np.ndarray) -> np.ndarray:
    """Means over whole seconds, counted back from the end so that the last one is whole: a frame alone is no drift."""
    from_end = (series.time[-1] - series.time).astype(int)
    return np.array([values[from_end == second].mean() for second in np.unique(from_end)[::-1]])
