"""Randomness as a pure function of names: a resumed run, a worker process and a test draw the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfpp_core.rollout.flow import SeededNoise, generator_for


def normal(shape: Sequence[int], seed: int, *names: str | int, samples: Sequence[int]) -> Tensor:
    """Unit normal noise [len(samples), *shape], float32 on the CPU, each sample's from a generator of its own.

    samples: indices into the global batch. Whoever handles a sample, alone or among others, draws the same for it.
    """
    return torch.stack([torch.randn(*shape, generator=generator_for(seed, *names, sample)) for sample in samples])


@dataclass(frozen=True, slots=True)
class VideoNoise:
    """A `NoiseSource` for a batch of videos: each has the noise that inference draws for its seed, as if made alone."""

    seeds: tuple[int, ...]
    """One a video."""
    first_chunk: int = 0
    """Chunks that the videos had before this rollout began."""

    def __call__(self, chunk: int, step: int, shape: tuple[int, ...]) -> Tensor:
        """See `sfpp_core.rollout.flow.NoiseSource`; shape[0] is the number of seeds."""
        own = (1, *shape[1:])
        return torch.cat([SeededNoise(seed)(self.first_chunk + chunk, step, own) for seed in self.seeds])
