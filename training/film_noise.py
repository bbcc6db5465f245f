"""The noise of films that are made together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfpp_core.rollout.flow import SeededNoise


@dataclass(frozen=True, slots=True)
class FilmNoise:
    """A `NoiseSource` for a batch of films: each has the noise that inference draws for its seed, as if made alone."""

    seeds: tuple[int, ...]
    """One a film."""
    first_chunk: int = 0
    """Chunks that the films had before this rollout began."""

    def __call__(self, chunk: int, step: int, shape: tuple[int, ...]) -> Tensor:
        """See `sfpp_core.rollout.flow.NoiseSource`; shape[0] is the number of seeds."""
        own = (1, *shape[1:])
        return torch.cat([SeededNoise(seed)(self.first_chunk + chunk, step, own) for seed in self.seeds])
