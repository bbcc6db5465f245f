"""The truth of a prompt, and how a video's last seconds compare with it.

Scenes are procedural, so the distribution of a prompt's videos is known.

Axes: B video or window, F frame, H height, W width.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from sfpp_core.rollout.flow import generator_for
from sfpp_core.video.writer import LUMA
from sfpp_core.wan.config import FRAMES_PER_SECOND, WAN21
from sfpp_core.wan.vae import DecodeStream, EncodeStream, WanVAE

from ..config import ConfigError, require, usable
from ..data.scenes import (
    ATTRIBUTES,
    HISTORY_RANGES,
    Attributes,
    Colour,
    Motion,
    ObjectKind,
    SceneSpec,
    render,
    sample_scene,
)
from ..data.scenes.attributes import PLACE_PHRASES, SPEED_WORDS, Choice
from ..models.sampling import PORTION
from ..reader import AttributeReader, load_reader
from .figures import END_FRAMES

FRAMES_A_PIECE = 48
"""Rendered at a time."""
LATEST_START = 100_000
"""Windows begin at any frame up to here; any window has the same distribution."""
_SCENES = 2**40
"""History is drawn from these indices on, far beyond all scenes that anybody trains on or holds out."""
_LIGHT = ("exposure", "tint")
_WAYS = {Motion.LEFT: "left", Motion.RIGHT: "right", Motion.BOUNCE: "up"}


def attributes_in(prompt: str) -> Attributes:
    """Return what a prompt of the procedural scenes names; any wording of `scenes.describe`.

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


def true_videos(scenes: Sequence[SceneSpec], frames: int, size: int) -> Iterator[Tensor]:
    """Videos of scenes in pieces, B 3 F H W in [-1, 1]."""
    for start in range(0, frames, FRAMES_A_PIECE):
        yield render(scenes, start, min(FRAMES_A_PIECE, frames - start), size, size)


def videos_of_wandering_light(
    scenes: Sequence[SceneSpec], frames: int, size: int, crossing: float, seeds: Sequence[int]
) -> Iterator[Tensor]:
    """Yield videos as `true_videos` does, whose exposure and white balance wander.

    Each goes to and fro through its range at its own pace (0.7 to 1.3 crossings in `crossing` seconds), so that any
    moment's light is distributed as the scenes' is. Pieces of 4 frames, B 3 F H W in [-1, 1].
    """
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
    """Videos through the autoencoder, piece by piece; up to 3 last frames that fill no latent frame are lost."""
    encoder, decoder = EncodeStream(vae), DecodeStream(vae, portion=PORTION)
    weight = next(vae.parameters())
    for piece in pieces:
        latents = encoder.push(piece.to(weight))
        if latents.shape[2]:
            yield decoder.push(latents)


READ_AT_ONCE = 16
"""Windows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContentFigures:
    """The last 5 s before a length against prompt and truth. Attributes are 1 where the reader finds what was asked."""

    place: float
    object: float
    colour: float
    motion: float
    speed: float
    all_five: float
    luminance_error: float
    """Mean luma less its mean over true videos of the prompt, display values; above 0 is too bright."""
    contrast_error: float
    """Deviation of luma as a multiple of its mean over true videos of the prompt, less 1."""
    colour_error: float
    """Distance of the mean colour from its mean over true videos, display values of red, green and blue, each less the
    mean of the three: cast and saturation, whatever the exposure."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Truth:
    """The known facts of a prompt's videos."""

    attributes: Attributes
    light: Tensor
    """[5], mean of `light_of` over true windows."""
    features: Tensor
    """[B, 21], what the reader says of true windows."""


class PromptMetrics:
    """A reader, and the truth of every prompt, rendered when a prompt is first asked for."""

    def __init__(
        self, path: str, prompts: list[str], *, seed: int, scenes: int, size: int, device: torch.device
    ) -> None:
        """Open the reader and render what videos of each prompt look like.

        Args:
            path: file of the reader stage.
            scenes: rendered for each prompt.
            size: of pictures, in pixels.

        Raises:
            ConfigError: there is no reader in the file, or a prompt is none of the procedural scenes.
        """
        self._reader = open_reader(path).to(device)
        self._attributes = [attributes_in(prompt) for prompt in prompts]
        self._seed, self._scenes, self._size = seed, scenes, size
        self._truths: dict[int, Truth] = {}

    @property
    def reader(self) -> AttributeReader:
        """The network, for its fingerprint."""
        return self._reader

    def truth(self, prompt: int) -> Truth:
        """Return what is known of prompt number `prompt`."""
        if prompt not in self._truths:
            attributes = self._attributes[prompt]
            windows = true_windows(
                attributes, self._seed, prompt, count=self._scenes, frames=END_FRAMES, size=self._size
            )
            features = read_features(self._reader, windows)
            self._truths[prompt] = Truth(attributes=attributes, light=light_of(windows).mean(dim=0), features=features)
        return self._truths[prompt]

    def judge(self, window: Tensor, prompts: list[int]) -> list[tuple[ContentFigures, list[float]]]:
        """The figures and the reader's features of windows, B 3 81 H W in [-1, 1], one a prompt number."""
        features = read_features(self._reader, window)
        lights = light_of(window)
        return [
            (_figures(self.truth(prompt), light, feature), [round(value, 4) for value in feature.tolist()])
            for prompt, light, feature in zip(prompts, lights, features, strict=True)
        ]


def light_of(windows: Tensor) -> Tensor:
    """Return the light of windows B 3 F H W in [-1, 1]: [B, 5], display values, float32 on the CPU.

    Mean luma, its deviation within a frame, and the mean colour, each channel less the mean of the three.
    """
    shown = windows.float() / 2 + 0.5
    # A sum and no product of matrices, which autocast would round to half precision.
    weights = torch.tensor(LUMA, device=shown.device)[:, None, None, None]
    luma = (shown * weights).sum(dim=1).flatten(2)
    means = shown.mean(dim=(2, 3, 4))
    light = torch.cat(
        [
            luma.mean(dim=(1, 2))[:, None],
            luma.std(dim=2, correction=0).mean(dim=1)[:, None],
            means - means.mean(dim=1, keepdim=True),
        ],
        dim=1,
    )
    return light.cpu()


@torch.no_grad()
def read_features(reader: AttributeReader, windows: Tensor) -> Tensor:
    """[B, 21], float32 on the CPU: the reader's logits of all attributes, then exposure and tint."""
    device = next(reader.parameters()).device
    outputs = [reader(piece.to(device)) for piece in windows.split(READ_AT_ONCE)]
    return torch.cat([torch.cat([*output.logits.values(), output.looks], dim=1) for output in outputs]).float().cpu()


def _figures(truth: Truth, light: Tensor, feature: Tensor) -> ContentFigures:
    logits = feature.split([len(choices) for choices in ATTRIBUTES.values()] + [2])
    expected = truth.attributes.indices()
    hits = [float(int(values.argmax()) == index) for values, index in zip(logits, expected, strict=False)]
    return ContentFigures(
        **dict(zip(ATTRIBUTES, hits, strict=True)),
        all_five=min(hits),
        luminance_error=float(light[0] - truth.light[0]),
        contrast_error=float(light[1] / truth.light[1]) - 1,
        colour_error=float((light[2:] - truth.light[2:]).norm()),
    )


def open_reader(path: str) -> AttributeReader:
    """The network of a file of the reader stage; raises ConfigError if it is not there or is something else."""
    require(Path(path).is_file(), f"reader is {path}, which is no file; name a reader.safetensors of the reader stage.")
    with usable(f"reader {path}", instead="name a reader.safetensors of the reader stage"):
        return load_reader(Path(path))
