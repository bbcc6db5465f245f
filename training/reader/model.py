"""A classifier that reads from pixels what a prompt names, and the look that only a video's history carries.

It is the judge of every generator of the built-in family.

Axes: B video, C channel, F frame, T time step, H row, W column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from sfpp_core.tiny.weights_file import read_weights

from ..data.scenes import ATTRIBUTES, HISTORY_RANGES, Attributes

KIND = "reader"
"""What the header of a weights file calls it."""
LOOKS = ("exposure", "tint")
"""Read as numbers; see `HISTORY_RANGES`."""
MIN_FRAMES = 17
"""Below about a second, motion cannot be told."""
_SIZE = 64
_PATCH = 4
_GRID = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class ReaderConfig:
    """Sizes of the reader."""

    widths: tuple[int, int, int] = (32, 64, 96)
    """Channels after each convolution over space and time."""
    track: int = 64
    """Channels of the sequence that motion is read from."""

    def __post_init__(self) -> None:
        if len(self.widths) != 3 or min(*self.widths, self.track) < 1:
            raise ValueError(f"widths {self.widths} and track {self.track}: three widths and track, each at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReaderOutput:
    """The network's output for a batch of videos."""

    logits: dict[str, Tensor]
    """Per attribute, [B, number of its choices]."""
    looks: Tensor
    """[B, 2]: `LOOKS`, each scaled so that its range in the data is [-1, 1]."""


class AttributeReader(nn.Module):
    """Convolutions over space and time, then three summaries of the video, from which linear heads read.

    What is there: the extremes and the mean of the features, wherever and whenever. How it moves: the features' grid
    laid flat at each time step, so that a thing that moves is a pattern along time, and convolutions along time. How it
    is lit: the mean colours of a 4x4 grid, because exposure and tint are levels and not patterns.

    The features of each frame go on twice, as they are and as their difference from the video's mean: the ground stands
    still, so the difference shows the object alone.
    """

    def __init__(self, config: ReaderConfig | None = None) -> None:
        super().__init__()
        self.config = config or ReaderConfig()
        first, second, third = self.config.widths
        track = self.config.track
        self.patches = nn.Conv3d(3 * _PATCH**2, first, (4, 1, 1), stride=(2, 1, 1), padding=(1, 0, 0))
        self.space_time = nn.Sequential(
            nn.SiLU(),
            nn.Conv3d(2 * first, second, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv3d(second, third, 3, stride=(1, 2, 2), padding=1),
            nn.SiLU(),
        )
        self.flatten = nn.Linear(third * _GRID**2, track)
        self.time = nn.ModuleList(nn.Conv1d(track, track, 5, padding=2) for _ in range(2))
        self.norm = nn.LayerNorm(2 * third + 2 * track)
        known = 2 * third + 2 * track + 3 * _GRID**2
        self.heads = nn.ModuleDict({name: nn.Linear(known, len(choices)) for name, choices in ATTRIBUTES.items()})
        self.looks = nn.Sequential(nn.Linear(known, track), nn.SiLU(), nn.Linear(track, len(LOOKS)))

    def forward(self, video: Tensor) -> ReaderOutput:
        """video: B 3 F H W in [-1, 1], any size (it is read at 64x64) and at least 17 frames at 16 a second."""
        if video.ndim != 5 or video.shape[1] != 3 or video.shape[2] < MIN_FRAMES:
            raise ValueError(
                f"video has shape {tuple(video.shape)}; the reader needs B 3 F H W with F at least {MIN_FRAMES}"
            )
        video = _at_reading_size(video)
        frames = self.patches(_patches(video))
        features = self.space_time(torch.cat([frames, frames - frames.mean(dim=2, keepdim=True)], dim=1))
        track = rearrange(self.flatten(rearrange(features, "b c t h w -> b t (h w c)")), "b t c -> b c t")
        for layer in self.time:
            track = track + layer(F.silu(track))
        content = rearrange(features, "b c t h w -> b c (t h w)")
        summary = torch.cat([_mean_and_max(content), _mean_and_max(track)], dim=1)
        colours = reduce(video[:, :, ::4], "b c f (h p) (w q) -> b (c h w)", "mean", h=_GRID, w=_GRID)
        known = torch.cat([self.norm(summary), colours], dim=1)
        logits = {name: head(known).float() for name, head in self.heads.items()}
        return ReaderOutput(logits=logits, looks=self.looks(known).float())

    def header(self) -> dict[str, object]:
        """Return what a weights file must say for `load_reader` to take it; more entries do no harm."""
        return {"kind": KIND, "model": asdict(self.config)}


def looks_to_unit(looks: Tensor) -> Tensor:
    """Values of `LOOKS` [..., 2] to the scale that the reader speaks, in which the data fills [-1, 1]."""
    low, high = _look_ranges(looks)
    return (looks - low) / (high - low) * 2 - 1


def looks_from_unit(unit: Tensor) -> Tensor:
    """Inverse of `looks_to_unit`."""
    low, high = _look_ranges(unit)
    return low + (unit + 1) / 2 * (high - low)


def load_reader(path: Path) -> AttributeReader:
    """The reader of a weights file, in float32 on the CPU, in evaluation mode."""
    weights, header = read_weights(path, kind=KIND)
    sizes = header["model"]
    reader = AttributeReader(ReaderConfig(**sizes | {"widths": tuple(sizes["widths"])}))
    reader.load_state_dict(weights)
    return reader.eval()


def _look_ranges(like: Tensor) -> tuple[Tensor, Tensor]:
    low, high = zip(*(HISTORY_RANGES[name] for name in LOOKS), strict=True)
    return torch.tensor(low).to(like), torch.tensor(high).to(like)


def _patches(video: Tensor) -> Tensor:
    """4x4 pixels a position, B C F 16 16 with channels innermost in memory.

    A convolution of 4x4 pixels without overlap, spelt as one over patches, is several times faster on a CPU.
    """
    patches = rearrange(video, "b c f (h p) (w q) -> b f h w (c p q)", p=_PATCH, q=_PATCH)
    return rearrange(patches, "b f h w c -> b c f h w")


def _mean_and_max(sequence: Tensor) -> Tensor:
    """[B, C, T] to [B, 2 C]."""
    return torch.cat([sequence.mean(dim=2), sequence.amax(dim=2)], dim=1)


def _at_reading_size(video: Tensor) -> Tensor:
    if video.shape[3:] == (_SIZE, _SIZE):
        return video
    return F.interpolate(video, size=(video.shape[2], _SIZE, _SIZE), mode="trilinear", antialias=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """The reader's answer for one video."""

    attributes: Attributes
    confidence: dict[str, float]
    """Probability of each attribute's value, as the reader sees it, in (0, 1]."""
    exposure: float
    tint: float


@torch.no_grad()
def read(reader: AttributeReader, videos: Tensor, *, batch: int = 16) -> list[Reading]:
    """Read videos, B 3 F H W in [-1, 1] at 16 frames a second, `batch` at a time."""
    device = next(reader.parameters()).device
    readings: list[Reading] = []
    for piece in videos.split(batch):
        output = reader(piece.to(device))
        likeliest = [logits.softmax(dim=1).max(dim=1) for logits in output.logits.values()]
        looks = looks_from_unit(output.looks)
        for item in range(len(piece)):
            indices = tuple(int(found.indices[item]) for found in likeliest)
            confidence = {name: float(found.values[item]) for name, found in zip(output.logits, likeliest, strict=True)}
            look = dict(zip(LOOKS, looks[item].tolist(), strict=True))
            readings.append(Reading(attributes=Attributes.from_indices(indices), confidence=confidence, **look))
    return readings


def accuracy(readings: Sequence[Reading], expected: Sequence[Attributes]) -> dict[str, float]:
    """Share of videos, in [0, 1], in which each attribute is as expected, and `all` of them."""
    if len(readings) != len(expected) or not readings:
        raise ValueError(f"{len(readings)} readings for {len(expected)} expectations; give as many, and at least one")
    hits = torch.tensor(
        [
            [getattr(reading.attributes, name) is getattr(wanted, name) for name in ATTRIBUTES]
            for reading, wanted in zip(readings, expected, strict=True)
        ],
        dtype=torch.float64,
    )
    return dict(zip(ATTRIBUTES, hits.mean(dim=0).tolist(), strict=True)) | {"all": hits.amin(dim=1).mean().item()}
