"""A network in training: its weights, what optimises them, and their moving average."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..config import OptimizerConfig
from .checks import ExplosionGuard, TrainingDiverged
from .optimizer import Optimizers


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


class TrainableModel:
    """A network in training: optimisers, learning rate, moving average.

    Made once the network lies where it will be trained (see `distributed.place`). Parameters that require no gradient
    are left alone.
    """

    def __init__(
        self, network: nn.Module, config: OptimizerConfig, *, steps: int, name: str, key: str = "optimizer"
    ) -> None:
        """Build the optimisers and the average.

        Args:
            steps: updates in all, over which the learning rate runs its course.
            name: of the network, as messages name it.
            key: of `config` in the stage's configuration, as messages name it.
        """
        self.network = network
        self.rate = f"{key}.lr (it is {config.lr:g})"
        """The highest learning rate, as messages name it."""
        self._layout = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        guard = ExplosionGuard(config.explosion, network=name, key=key)
        self._optimizers = Optimizers(network, config, steps=steps, guard=guard)
        self._average = MovingAverage(network, config.ema, start=config.ema_start) if config.ema else None

    def update(self, step: int) -> dict[str, float]:
        """Take update number `step` with the gradients that lie there, and forget them; metrics for the log.

        Raises:
            TrainingDiverged: a gradient is NaN or infinite, or gradients have exploded; the weights are as they were.
                The message ends with the learning rate to lower.
        """
        try:
            metrics = self._optimizers.step(step)
        except TrainingDiverged as problem:
            raise TrainingDiverged(f"{problem}; lower {self.rate}") from problem
        if self._average is not None:
            self._average.update(step)
        return metrics

    @property
    def in_doubt(self) -> bool:
        """Return whether the latest gradient was out of proportion, so that these weights may be exploding.

        The same in every process.
        """
        return self._optimizers.in_doubt

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The network holds its averages inside the block, if it has any, and its own weights again after it."""
        if self._average is None:
            yield
            return
        with self._average.applied():
            yield

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs: tensors, by what they are and then by the name of their parameter."""
        return {
            "weights": self.network.state_dict(),
            "average": self._average.state() if self._average is not None else {},
            "moments": self._optimizers.moments(),
            "norms": self._optimizers.norms(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.network.load_state_dict(state["weights"])
        if self._average is not None:
            self._average.restore(state["average"])
        self._optimizers.restore(state["moments"], state["norms"])

    def empty(self, path: Sequence[str], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return an empty tensor to read the entry at a path in `state` into.

        A weight, its average and its moments lie where the weight does and are sharded as it is.
        """
        weight = self._layout.get(path[1]) if len(path) > 1 else None
        if weight is None or weight.shape != shape:
            return torch.empty(shape, dtype=dtype)
        return torch.empty_like(weight, dtype=dtype, requires_grad=False)
