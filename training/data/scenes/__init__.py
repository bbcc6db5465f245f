"""The world of the built-in family: endless procedural videos with prompts, of known distribution.

A scene is a place, one object and its motion, seen at 16 frames a second by a camera that stands still.

Named by the prompt, each uniform and independent: place (4), object (4), its colour (6), motion (left, right, bounce)
and speed (slow, fast). Carried by the history alone, each uniform over `HISTORY_RANGES` and independent: exposure,
tint, sun, relief, phase and density of the texture, size and height of the object, its exact pace, and where on its way
it is at frame 0.

Motion is periodic and the phase at frame 0 is uniform, so the process is stationary: any window of any video has the
same distribution as the first one, and whatever drifts in a generated video is the generator's doing. Nothing is random
per frame, and nothing but the object and its shadow moves.
"""

from __future__ import annotations

from .attributes import (
    ATTRIBUTES,
    BOUNCE_SECONDS,
    FIRST_HELD_OUT,
    HISTORY_RANGES,
    TRAVEL_WIDTHS_PER_SECOND,
    Attributes,
    Colour,
    Motion,
    ObjectKind,
    Place,
    SceneSpec,
    Speed,
    describe,
    object_path,
    prompt_for,
    sample_scene,
)
from .render import render

__all__ = [
    "ATTRIBUTES",
    "BOUNCE_SECONDS",
    "FIRST_HELD_OUT",
    "HISTORY_RANGES",
    "TRAVEL_WIDTHS_PER_SECOND",
    "Attributes",
    "Colour",
    "Motion",
    "ObjectKind",
    "Place",
    "SceneSpec",
    "Speed",
    "describe",
    "object_path",
    "prompt_for",
    "render",
    "sample_scene",
]
