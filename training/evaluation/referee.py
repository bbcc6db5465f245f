"""What a film's last seconds show of its prompt, and how far they are from what films of that prompt look like.

Axes: B film or window, F frame, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sfpp_core.video.writer import LUMA

from ..config import require
from ..reader import AttributeReader, load_reader
from ..refusals import usable
from ..scenes import ATTRIBUTES, Attributes
from .lengths import END_FRAMES
from .truth import attributes_in, true_windows

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
    """Mean luma less its mean over true films of the prompt, display values; above 0 is too bright."""
    contrast_error: float
    """Deviation of luma as a multiple of its mean over true films of the prompt, less 1."""
    colour_error: float
    """Distance of the mean colour from its mean over true films, display values of red, green and blue, each less the
    mean of the three: cast and saturation, whatever the exposure."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Truth:
    """What is known of a prompt's films."""

    attributes: Attributes
    light: Tensor
    """[5], mean of `light_of` over true windows."""
    features: Tensor
    """[B, 21], what the reader says of true windows."""


class Referee:
    """A reader, and the truth of every prompt, rendered when a prompt is first asked for."""

    def __init__(
        self, path: str, prompts: list[str], *, seed: int, scenes: int, size: int, device: torch.device
    ) -> None:
        """path: file of the reader stage. scenes: rendered a prompt to know its films by. size: of pictures, in pixels.

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
        """What is known of prompt number `prompt`."""
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
    """[B, 5] of windows B 3 F H W in [-1, 1]: mean luma, its deviation within a frame, and the mean colour, each
    channel less the mean of the three; display values, float32 on the CPU."""
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
