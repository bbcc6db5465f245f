"""How severe each kind of damage is in each frame of a video.

Axes: F frames.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

import numpy as np

from ..measurement.series import FrameSeries
from .detectors.colour import colour_cast
from .detectors.detail import blur, noise
from .detectors.flicker import flicker
from .detectors.freeze import freeze
from .detectors.light import contrast_loss, darkening, over_exposure
from .detectors.loops import find_loops
from .detectors.scale import window_frames
from .detectors.shots import Shots


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
# Films are cut, and a cut is soon over: even one to another world costs less than a point of a segment.
_CUT_WORST: Final = 0.25
_CUT_SECONDS: Final = 0.5
_LOOP_WORST: Final = 0.8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Assessment:
    """What was found in a series."""

    shots: Shots
    severities: dict[Damage, np.ndarray]
    """For each kind [F], from 0 (none) to 1 (nothing left)."""

    @property
    def series(self) -> FrameSeries:
        """What was assessed."""
        return self.shots.series

    def without(self, kinds: Collection[Damage]) -> Assessment:
        """The same, as if nothing of these kinds had been found."""
        nothing = np.zeros(len(self.series))
        return replace(self, severities={**self.severities, **dict.fromkeys(kinds, nothing)})

    def shares(self, frames: slice = slice(None)) -> dict[Damage, float]:
        """What each kind takes of some frames, 0 (nothing) to 1: the root mean square of its severity.

        So a moment that is lost counts for more than its length: one second of ten takes a third, half of the time
        70 %.
        """
        return {kind: float(np.sqrt(np.mean(severity[frames] ** 2))) for kind, severity in self.severities.items()}

    def quality(self, frames: slice = slice(None)) -> float:
        """What is left of some frames, 1 (all) to 0: each kind takes its share of what the others leave."""
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
