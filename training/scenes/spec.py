"""One scene as a value, and the distribution that scenes are drawn from.

`SceneSpec` holds every number a film is made of; a frame is a closed-form function of the spec and the frame index. The
distribution below is all there is to know about the data: every field is independent and uniform.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from .attributes import ATTRIBUTES, Attributes

HISTORY_RANGES: dict[str, tuple[float, float]] = {
    "exposure": (0.8, 1.2),
    "tint": (-1.0, 1.0),
    "light_x": (0.15, 0.85),
    "light_y": (0.12, 0.3),
    "relief_phase": (0.0, 1.0),
    "texture_phase": (0.0, 1.0),
    "texture_density": (0.7, 1.3),
    "size": (0.25, 0.3),
    "height": (0.8, 0.92),
    "column": (0.3, 0.7),
    "pace": (0.93, 1.07),
    "start_phase": (0.0, 1.0),
}
"""Range of each quantity that only the picture's own past carries; the prompt never names one."""


FIRST_HELD_OUT = 10_000_000
"""Scenes from this index on are never trained on."""
WORDINGS = 2**20
"""Range of `SceneSpec.wording`; the grammar takes it modulo the number of its sentences."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneSpec:
    """A whole film. Lengths are fractions of the picture's height or, where said, of its width; y grows downwards."""

    attributes: Attributes
    exposure: float
    """Gain of the whole picture, before the tone curve."""
    tint: float
    """White balance of the whole picture: -1 is cool, +1 is warm."""
    light_x: float
    """Sun or moon, from the left, as a fraction of the width."""
    light_y: float
    """Sun or moon, from the top."""
    relief_phase: float
    """Where the hills, dunes or peaks lie, in turns."""
    texture_phase: float
    """Where ripples, waves, flowers or firs lie, in turns."""
    texture_density: float
    """Their spatial frequency, relative to the place's own."""
    size: float
    """Extent of the object."""
    height: float
    """Lowest point of the object on its way, from the top."""
    column: float
    """Centre of a bouncing object, from the left, as a fraction of the width."""
    pace: float
    """Speed, relative to the nominal one of the named speed."""
    start_phase: float
    """Where on its periodic way the object is at frame 0, in turns."""
    wording: int
    """Which paraphrase the prompt uses (see `prompts`)."""

    def __post_init__(self) -> None:
        for name, (low, high) in HISTORY_RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}; a scene needs {low} to {high}")
        if self.wording < 0:
            raise ValueError(f"wording is {self.wording}; it counts paraphrases from 0")


def sample_scene(seed: int, index: int) -> SceneSpec:
    """The scene number `index` of the endless data set `seed`: a pure function of the two (both at least 0)."""
    generator = np.random.default_rng((seed, index))
    uniform = iter(generator.random(len(fields(SceneSpec)) + len(ATTRIBUTES) - 1).tolist())
    choices = {name: list(enum)[int(next(uniform) * len(enum))] for name, enum in ATTRIBUTES.items()}
    history = {name: low + (high - low) * next(uniform) for name, (low, high) in HISTORY_RANGES.items()}
    return SceneSpec(attributes=Attributes(**choices), wording=int(next(uniform) * WORDINGS), **history)
