"""Batches and loss of the reader: scenes, roughened as a small autoencoder or a generator roughens them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sfpp_core.rollout.flow import generator_for

from ..data.scenes import SceneSpec, render, sample_scene
from .model import LOOKS, ReaderOutput, looks_to_unit

FRAME_COUNTS = (17, 25, 33)
"""Lengths of training clips, taken in turn."""
LATEST_START = 20_000
"""Frame number that training clips start before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReaderBatch:
    """Videos and what is true of them."""

    video: Tensor
    """B 3 F H W in about [-1, 1]."""
    labels: Tensor
    """[B, 5] int64: `Attributes.indices()`."""
    looks: Tensor
    """[B, 2]: `LOOKS` on the reader's scale."""
    samples: range
    """Which ones of the step's batch these are."""


def reader_batch(seed: int, step: int, *, batch: int, size: int, samples: range | None = None) -> ReaderBatch:
    """The training batch of a step: fresh scenes, each from a moment of its own, roughened. Pure in its arguments.

    samples: which ones of the batch to make; all by default.
    """
    samples = range(batch) if samples is None else samples
    num_frames = FRAME_COUNTS[step % len(FRAME_COUNTS)]
    specs = [sample_scene(seed, step * batch + sample) for sample in samples]
    clips = []
    for spec, sample in zip(specs, samples, strict=True):
        generator = generator_for(seed, "reader", step, sample)
        start = int(torch.randint(LATEST_START, (), generator=generator))
        clips.append(roughen(render(spec, start, num_frames, size, size), generator))
    return ReaderBatch(video=torch.cat(clips), **truth(specs), samples=samples)


def truth(specs: list[SceneSpec]) -> dict[str, Tensor]:
    """`labels` and `looks` of scenes."""
    looks = torch.tensor([[getattr(spec, name) for name in LOOKS] for spec in specs])
    return {
        "labels": torch.tensor([spec.attributes.indices() for spec in specs]),
        "looks": looks_to_unit(looks),
    }


def roughen(video: Tensor, generator: torch.Generator) -> Tensor:
    """A video, or several alike, with mild blur, contrast, brightness and grain, as decoders give them; same shape.

    Flips and shifts are out of the question: they would change what is true of the video.
    """
    blur, contrast, brightness, grain = torch.rand(4, generator=generator).tolist()
    soft = _binomial_blur(_binomial_blur(video, 3), 4)
    rough = video.lerp(soft, blur).mul_(0.94 + 0.12 * contrast).add_(0.06 * brightness - 0.03)
    # Grain is alike in the three channels of a pixel: a third of the cost, and what a small decoder's looks like.
    noise = torch.randn(video.shape[0], 1, *video.shape[2:], generator=generator)
    return rough.add_(noise, alpha=0.08 * grain)


def _binomial_blur(video: Tensor, axis: int) -> Tensor:
    """(1, 4, 6, 4, 1) / 16 along an axis, edges repeated."""
    length = video.shape[axis]
    first, last = video.narrow(axis, 0, 1), video.narrow(axis, length - 1, 1)
    padded = torch.cat([first, first, video, last, last], dim=axis)
    one, two, three, four, five = (padded.narrow(axis, shift, length) for shift in range(5))
    return (one + five).add_(two + four, alpha=4).add_(three, alpha=6).div_(16)


LOOKS_WEIGHT = 2.0
"""Of the squared error of the looks, against 1 for each attribute's cross entropy."""


def reader_loss(output: ReaderOutput, batch: ReaderBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, a scalar, and its parts by name, detached: cross entropies in nats, and the error of the looks."""
    parts = {
        name: F.cross_entropy(logits, labels)
        for (name, logits), labels in zip(output.logits.items(), batch.labels.unbind(dim=1), strict=True)
    }
    looks = F.mse_loss(output.looks, batch.looks)
    total = sum(parts.values()) + LOOKS_WEIGHT * looks
    return total, {name: part.detach() for name, part in (parts | {"looks": looks}).items()}
