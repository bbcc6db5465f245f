"""A network in training: its weights, what optimises them, and their moving average."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .config import OptimizerConfig
from .divergence import ExplosionGuard, TrainingDiverged
from .ema import MovingAverage
from .optim import Optimizers


class Trained:
    """Made once the network lies where it will be trained (see `sharding.place`); parameters that require no gradient
    are left alone."""

    def __init__(
        self, network: nn.Module, config: OptimizerConfig, *, steps: int, name: str, key: str = "optimizer"
    ) -> None:
        """steps: updates in all, over which the learning rate runs its course. name: of the network, and `key`: of
        `config` in the stage's configuration, as messages name them."""
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
        """Whether the latest gradient was out of proportion, so that these weights may be exploding; the same in every
        process."""
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
        """What `restore` needs: tensors, by what they are and then by the name of their parameter."""
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
        """An empty tensor to read the entry at a path in `state` into: a weight, its average and its moments lie where
        the weight does and are sharded as it is."""
        weight = self._layout.get(path[1]) if len(path) > 1 else None
        if weight is None or weight.shape != shape:
            return torch.empty(shape, dtype=dtype)
        return torch.empty_like(weight, dtype=dtype, requires_grad=False)
