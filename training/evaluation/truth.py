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

from sfpp_core.wan.vae import DecodeStream, EncodeStream, WanVAE

from ..config import ConfigError
from ..scenes import Attributes, Colour, Motion, ObjectKind, SceneSpec, render, sample_scene
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


def autoencoded(pieces: Iterator[Tensor], vae: WanVAE) -> Iterator[Tensor]:
    """Films through the autoencoder, piece by piece; up to 3 last frames that fill no latent frame are lost."""
    encoder, decoder = EncodeStream(vae), DecodeStream(vae, portion=PORTION)
    weight = next(vae.parameters())
    for piece in pieces:
        latents = encoder.push(piece.to(weight))
        if latents.shape[2]:
            yield decoder.push(latents)
