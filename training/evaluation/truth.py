"""What films of a prompt really look like: the scenes are procedural, so their distribution is known.

Axes: B film, F frame, H height, W width.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor

from sfpp_core.wan.config import FRAMES_PER_SECOND, WAN21
from sfpp_core.wan.vae import DecodeStream, EncodeStream, WanVAE

from ..config import ConfigError, require
from ..scenes import HISTORY_RANGES, Attributes, Colour, Motion, ObjectKind, SceneSpec, render, sample_scene
from ..scenes.attributes import Choice
from ..scenes.prompts import PLACE_PHRASES, SPEED_WORDS
from ..seeding import generator_for
from .decoding import PORTION

FRAMES_A_PIECE = 48
"""Rendered at a time."""
LATEST_START = 100_000
"""Windows begin at any frame up to here; any window has the same distribution."""
_SCENES = 2**40
"""History is drawn from these indices on, far beyond all scenes that anybody trains on or holds out."""
_LIGHT = ("exposure", "tint")
_WAYS = {Motion.LEFT: "left", Motion.RIGHT: "right", Motion.BOUNCE: "up"}


def attributes_in(prompt: str) -> Attributes:
    """What a prompt of the procedural scenes names; any wording of `scenes.describe`.

    Raises:
        ConfigError: the prompt leaves an attribute open, or names two of a kind.
    """
    text = prompt.lower()
    places = [place for place, phrases in PLACE_PHRASES.items() if any(phrase in text for phrase in phrases)]
    # A place may be called by a colour, as a green meadow is: longer names first, so that nothing of one is left.
    for phrase in sorted(chain.from_iterable(PLACE_PHRASES.values()), key=len, reverse=True):
        text = text.replace(phrase, " ")
    words = re.findall(r"[a-z]+", text)
    found: dict[str, list[Choice]] = {
        "place": places,
        "object": [kind for kind in ObjectKind if kind.value in words],
        "colour": [colour for colour in Colour if colour.value in words],
        "motion": [motion for motion, way in _WAYS.items() if way in words],
        "speed": [speed for speed, word in SPEED_WORDS.items() if word in words],
    }
    for name, choices in found.items():
        if len(choices) != 1:
            raise ConfigError(
                f"{prompt!r} names {len(choices) or 'no'} {name}; a truth is known only for prompts of the procedural "
                "scenes, one of each attribute. Leave reader, and arms of kind truth, out for other prompts."
            )
    return Attributes(**{name: choices[0] for name, choices in found.items()})


def check_square(height: int, width: int) -> None:
    """Raise ConfigError unless pictures are as high as they are wide; scenes are rendered so."""
    require(
        height == width,
        f"height is {height} and width {width}; procedural scenes are judged as squares. Make both the same, or leave "
        "reader, and arms of kind truth, out.",
    )


def true_scene(attributes: Attributes, seed: int, *names: str | int) -> SceneSpec:
    """A scene of these attributes; all that a prompt leaves open is drawn for (seed, names)."""
    index = int(torch.randint(_SCENES, (), generator=generator_for(seed, "true scene", *names)))
    return replace(sample_scene(seed, _SCENES + index), attributes=attributes)


def true_windows(attributes: Attributes, seed: int, prompt: int, *, count: int, frames: int, size: int) -> Tensor:
    """`count` windows of as many scenes of a prompt, each from a frame of its own: B 3 F H W in [-1, 1]."""
    starts = torch.randint(LATEST_START, (count,), generator=generator_for(seed, "true start", prompt)).tolist()
    scenes = [true_scene(attributes, seed, prompt, "window", number) for number in range(count)]
    return torch.cat([render(scene, start, frames, size, size) for scene, start in zip(scenes, starts, strict=True)])


def true_films(scenes: Sequence[SceneSpec], frames: int, size: int) -> Iterator[Tensor]:
    """Films of scenes in pieces, B 3 F H W in [-1, 1]."""
    for start in range(0, frames, FRAMES_A_PIECE):
        yield render(scenes, start, min(FRAMES_A_PIECE, frames - start), size, size)


def films_of_wandering_light(
    scenes: Sequence[SceneSpec], frames: int, size: int, crossing: float, seeds: Sequence[int]
) -> Iterator[Tensor]:
    """Films as of `true_films` whose exposure and white balance do not stay: each goes to and fro through its range, at
    a pace of its own (0.7 to 1.3 crossings in `crossing` seconds), so that any moment's light is distributed as the
    scenes' is. Pieces of 4 frames, B 3 F H W in [-1, 1]."""
    ways = [generator_for(seed, "wandering light") for seed in seeds]
    paces = [{name: _pace(way) / (crossing * FRAMES_PER_SECOND) for name in _LIGHT} for way in ways]
    for start in range(0, frames, WAN21.temporal_stride):
        lit = [
            replace(scene, **{name: _wandered(scene, name, start * pace[name]) for name in _LIGHT})
            for scene, pace in zip(scenes, paces, strict=True)
        ]
        yield render(lit, start, min(WAN21.temporal_stride, frames - start), size, size)


def _pace(way: torch.Generator) -> float:
    """Up or down, in crossings."""
    size, turn = torch.rand(2, generator=way).tolist()
    return (0.7 + 0.6 * size) * (1 if turn < 0.5 else -1)


def _wandered(scene: SceneSpec, name: str, way: float) -> float:
    """A quantity of the scene after `way` crossings of its range, turned back at the ends: uniform if it began so."""
    low, high = HISTORY_RANGES[name]
    there = ((getattr(scene, name) - low) / (high - low) + way) % 2
    return low + (high - low) * (there if there <= 1 else 2 - there)


def autoencoded(pieces: Iterator[Tensor], vae: WanVAE) -> Iterator[Tensor]:
    """Films through the autoencoder, piece by piece; up to 3 last frames that fill no latent frame are lost."""
    encoder, decoder = EncodeStream(vae), DecodeStream(vae, portion=PORTION)
    weight = next(vae.parameters())
    for piece in pieces:
        latents = encoder.push(piece.to(weight))
        if latents.shape[2]:
            yield decoder.push(latents)
