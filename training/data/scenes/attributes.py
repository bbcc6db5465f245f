"""Scenes as values: what a prompt names, how scenes are drawn, and the sentences for them.

A prompt names five independent attributes, each drawn uniformly from its enumeration. `SceneSpec` holds every number a
video is made of; a frame is a closed-form function of the spec and the frame index. The distribution below is all there
is to know about the data: every field is independent and uniform. The wording of prompts varies; every attribute is
always named, and by one word each.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum

import numpy as np
import torch
from torch import Tensor

from sfpp_core.wan.config import FRAMES_PER_SECOND


class Choice(str, Enum):
    """A value of an attribute; its text is the word that names it."""

    def __str__(self) -> str:
        return self.value


class Place(Choice):
    """A scene's place; each has a composition and a texture of its own."""

    DESERT = "desert"
    SEA = "sea"
    MEADOW = "meadow"
    MOUNTAINS = "mountains"


class ObjectKind(Choice):
    """The one thing that moves. Silhouettes are mirror-symmetric: a still never gives the direction away."""

    BALL = "ball"
    BOAT = "boat"
    KITE = "kite"
    LANTERN = "lantern"


class Colour(Choice):
    """Colour of the object."""

    RED = "red"
    YELLOW = "yellow"
    GREEN = "green"
    BLUE = "blue"
    PURPLE = "purple"
    WHITE = "white"


class Motion(Choice):
    """A motion of the object: across the picture and round again, or up and down on the spot."""

    LEFT = "left"
    RIGHT = "right"
    BOUNCE = "bounce"


class Speed(Choice):
    """A speed of the motion; the two ranges are far apart."""

    SLOW = "slow"
    FAST = "fast"


@dataclass(frozen=True, kw_only=True, slots=True)
class Attributes:
    """Everything that the prompt says, in the order that `ATTRIBUTES` lists."""

    place: Place
    object: ObjectKind
    colour: Colour
    motion: Motion
    speed: Speed

    def indices(self) -> tuple[int, ...]:
        """Position of each value in its enumeration: the class labels of a classifier."""
        return tuple(list(choices).index(getattr(self, name)) for name, choices in ATTRIBUTES.items())

    @staticmethod
    def from_indices(indices: tuple[int, ...]) -> Attributes:
        """Inverse of `indices`."""
        values = (list(choices)[i] for choices, i in zip(ATTRIBUTES.values(), indices, strict=True))
        return Attributes(**dict(zip(ATTRIBUTES, values, strict=True)))


ATTRIBUTES: dict[str, type[Choice]] = {
    "place": Place,
    "object": ObjectKind,
    "colour": Colour,
    "motion": Motion,
    "speed": Speed,
}
"""Name of each attribute and its choices, in the order of the fields of `Attributes`."""

assert tuple(ATTRIBUTES) == tuple(field.name for field in fields(Attributes))


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
    """A whole video. Lengths are fractions of the picture's height or, where said, of its width; y grows downwards."""

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


PLACE_PHRASES: dict[Place, tuple[str, ...]] = {
    Place.DESERT: ("the desert", "a desert of golden dunes", "wide desert sand"),
    Place.SEA: ("the sea", "a calm blue sea", "the open sea"),
    Place.MEADOW: ("a meadow", "a green meadow with flowers", "a sunny meadow"),
    Place.MOUNTAINS: ("the mountains", "snowy mountains", "tall mountains"),
}
VERBS: dict[Motion, tuple[str, ...]] = {
    Motion.LEFT: ("moves", "glides", "travels"),
    Motion.RIGHT: ("moves", "glides", "travels"),
    Motion.BOUNCE: ("bounces", "hops", "jumps"),
}
WAYS: dict[Motion, tuple[str, ...]] = {
    Motion.LEFT: ("left", "to the left"),
    Motion.RIGHT: ("right", "to the right"),
    Motion.BOUNCE: ("up and down", "up and down in place"),
}
SPEED_WORDS: dict[Speed, str] = {Speed.SLOW: "slowly", Speed.FAST: "quickly"}
SENTENCES: tuple[str, ...] = (
    "a {colour} {object} {verb} {speed} {way} in {place}",
    "a {colour} {object} {speed} {verb} {way} in {place}",
    "in {place}, a {colour} {object} {verb} {way} {speed}",
    "{place}: a {colour} {object} {verb} {speed} {way}",
    "a video of {place}, where a {colour} {object} {speed} {verb} {way}",
    "a {object}, {colour}, {verb} {way} {speed}, in {place}",
)


def describe(attributes: Attributes, wording: int = 0) -> str:
    """The sentence number `wording` (taken modulo their number) about these attributes."""
    picks: dict[str, str] = {}
    options = {
        "sentence": SENTENCES,
        "place": PLACE_PHRASES[attributes.place],
        "verb": VERBS[attributes.motion],
        "way": WAYS[attributes.motion],
    }
    for name, phrases in options.items():
        wording, pick = divmod(wording, len(phrases))
        picks[name] = phrases[pick]
    sentence = picks.pop("sentence").format(
        colour=attributes.colour,
        object=attributes.object,
        speed=SPEED_WORDS[attributes.speed],
        **picks,
    )
    return sentence[0].upper() + sentence[1:] + "."


def prompt_for(spec: SceneSpec) -> str:
    """The prompt of a scene, in the paraphrase that the scene was drawn with."""
    return describe(spec.attributes, spec.wording)


TRAVEL_WIDTHS_PER_SECOND = {Speed.SLOW: 0.125, Speed.FAST: 0.40625}
"""Across the picture: 8 and 26 pixels a second at a width of 64."""
BOUNCE_SECONDS = {Speed.SLOW: 2.5, Speed.FAST: 1.0}
"""From ground to ground."""
BOUNCE_HEIGHT = 0.36
"""Rise of a bounce, as a fraction of the picture's height."""


def object_path(spec: SceneSpec, frames: Tensor, aspect: float) -> tuple[Tensor, Tensor]:
    """Centre of the object in each frame.

    frames: frame indices [F], any integers. aspect: width / height of the picture.
    Returns x and y [F] in float64, in picture heights from the upper left corner. A travelling object leaves the
    picture entirely and then comes back at once on the other side; its way is one picture width and one object long.
    """
    seconds = frames.to(torch.float64) / FRAMES_PER_SECOND
    resting_y = torch.full_like(seconds, spec.height - spec.size / 2)
    speed, motion = spec.attributes.speed, spec.attributes.motion
    if motion is Motion.BOUNCE:
        turns = _fraction(spec.start_phase + seconds * (spec.pace / BOUNCE_SECONDS[speed]))
        return torch.full_like(seconds, spec.column * aspect), resting_y - BOUNCE_HEIGHT * 4 * turns * (1 - turns)
    way = aspect + spec.size
    travelled = seconds * (spec.pace * TRAVEL_WIDTHS_PER_SECOND[speed] * aspect / way)
    turns = _fraction(spec.start_phase + (travelled if motion is Motion.RIGHT else -travelled))
    return turns * way - spec.size / 2, resting_y


def _fraction(turns: Tensor) -> Tensor:
    return turns - turns.floor()
