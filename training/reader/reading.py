"""Using a trained reader: what it says of videos, and how often that is true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..scenes import ATTRIBUTES, Attributes
from .model import LOOKS, AttributeReader, looks_from_unit


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What the reader says of one video."""

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
