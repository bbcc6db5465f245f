"""Sentences for a scene: the wording varies, every attribute is always named, and by one word each."""

from __future__ import annotations

from .attributes import Attributes, Motion, Place, Speed
from .spec import SceneSpec

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
