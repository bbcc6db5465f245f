"""A moving average of a network's weights: what is shipped, sampled and judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """Averages the trainable parameters of a network; `update` after every optimiser step.

    An average that begins with the run's first weights has to forget them, so it follows quickly while it is young: the
    decay in force at step n is min(decay, (1 + n) / (10 + n)). One that begins later, at step `start`, begins with
    weights that are worth averaging: it is the weights themselves until then, and its decay is the plain one from then
    on, as in Self-Forcing's code. Of a sharded network each process averages its own part.
    """

    def __init__(self, model: nn.Module, decay: float, *, start: int = 0) -> None:
        named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._parameters = list(named.values())
        self._averages = {name: parameter.detach().clone() for name, parameter in named.items()}
        self._decay = decay
        self._start = start

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the weights as they are after optimiser step number `step`, counted from 0."""
        weights = [parameter.detach() for parameter in self._parameters]
        torch._foreach_lerp_(list(self._averages.values()), weights, 1 - self._decay_at(step))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network holds the averages inside the block and its own weights again after it."""
        own = [parameter.detach().clone() for parameter in self._parameters]
        self._copy(list(self._averages.values()))
        try:
            yield
        finally:
            self._copy(own)

    def state(self) -> dict[str, Tensor]:
        """The averages by the names of their parameters."""
        return self._averages

    def restore(self, averages: Mapping[str, Tensor]) -> None:
        """Go on from averages that `state` gave."""
        for name, mine in self._averages.items():
            mine.copy_(averages[name])

    def _decay_at(self, step: int) -> float:
        if self._start == 0:
            return min(self._decay, (1 + step) / (10 + step))
        return self._decay if step >= self._start else 0.0

    @torch.no_grad()
    def _copy(self, weights: list[Tensor]) -> None:
        for parameter, weight in zip(self._parameters, weights, strict=True):
            parameter.copy_(weight)
