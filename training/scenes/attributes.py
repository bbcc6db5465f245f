"""What a prompt names: five independent attributes, each drawn uniformly from its enumeration."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum


class Choice(str, Enum):
    """A value of an attribute; its text is the word that names it."""

    def __str__(self) -> str:
        return self.value


class Place(Choice):
    """Where the scene plays; each place has a composition and a texture of its own."""

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
    """How the object moves: across the picture and round again, or up and down on the spot."""

    LEFT = "left"
    RIGHT = "right"
    BOUNCE = "bounce"


class Speed(Choice):
    """How fast it does so; the two ranges are far apart."""

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
