"""A moving average of a network's weights: what is shipped, sampled and judged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """Averages the trainable parameters of a network; `update` after every optimiser step.

    Young averages follow quickly: the decay in force at step n is min(decay, (1 + n) / (10 + n)). Before step `start`
    the average is the weights themselves.
    """

    def __init__(self, model: nn.Module, decay: float, *, start: int = 0) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._averages = [parameter.detach().clone() for parameter in self._parameters]
        self._decay = decay
        self._start = start

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the weights as they are after optimiser step number `step`, counted from 0."""
        since = step - self._start
        decay = min(self._decay, (1 + since) / (10 + since)) if since >= 0 else 0.0
        torch._foreach_lerp_(self._averages, [parameter.detach() for parameter in self._parameters], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network holds the averages inside the block and its own weights again after it."""
        own = [parameter.detach().clone() for parameter in self._parameters]
        self._copy(self._averages)
        try:
            yield
        finally:
            self._copy(own)

    def state(self) -> list[Tensor]:
        """The averages, in the order of the network's parameters."""
        return self._averages

    def restore(self, averages: list[Tensor]) -> None:
        """Go on from averages that `state` gave."""
        for mine, given in zip(self._averages, averages, strict=True):
            mine.copy_(given)

    @torch.no_grad()
    def _copy(self, weights: list[Tensor]) -> None:
        for parameter, weight in zip(self._parameters, weights, strict=True):
            parameter.copy_(weight)
