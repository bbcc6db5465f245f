"""Clean clips with the embeddings of their prompts, drawn a sample at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..seeding import generator_for

MANY_WORDINGS = 2**20
"""Wordings are drawn from so many and taken modulo their number."""


class Clips(Protocol):
    """What examples are drawn from: `LatentClips`, or the ends of `OdeTrajectories`."""

    def __len__(self) -> int: ...

    def clip(self, index: int) -> Tensor:
        """[C, T, H, W], model space, float32."""
        ...

    def prompt(self, index: int, wording: int) -> str:
        """Its prompt, in one of its wordings."""
        ...


class Texts(Protocol):
    """What tells networks of prompts: `Conditioning`, or `TextsOnDemand`."""

    def text_of(self, prompts: Sequence[str]) -> Tensor:
        """[B, L, text_dim], float32 on the CPU."""
        ...

    def negative(self, batch: int) -> Tensor:
        """[batch, L, text_dim], float32 on the CPU."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """A batch, or a process's part of it."""

    clips: Tensor
    """B C T H W, model space, float32."""
    text: Tensor
    """[B, L, text_dim], float32."""
    samples: range
    """Which of the global batch they are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """What a sample is of."""

    index: int
    """Of a clip."""
    wording: int


def draw(num_clips: int, seed: int, step: int, *, samples: range) -> list[Draw]:
    """Uniform draws of clips and wordings, one a sample."""
    generators = [generator_for(seed, "example", step, sample) for sample in samples]
    return [
        Draw(
            index=int(torch.randint(num_clips, (), generator=generator)),
            wording=int(torch.randint(MANY_WORDINGS, (), generator=generator)),
        )
        for generator in generators
    ]


def draw_examples(clips: Clips, texts: Texts, seed: int, step: int, *, samples: range) -> Examples:
    """The clips of a step with their texts."""
    draws = draw(len(clips), seed, step, samples=samples)
    return Examples(
        clips=torch.stack([clips.clip(each.index) for each in draws]),
        text=texts.text_of([clips.prompt(each.index, each.wording) for each in draws]),
        samples=samples,
    )
