"""Stages that minimise one loss over one network, as a task of the loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from .board import Board
from .config import TrainConfig
from .divergence import require_finite
from .trained import Trained


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """What one step minimises, and what it reports."""

    total: Tensor
    """Scalar."""
    parts: dict[str, Tensor]
    """Scalars for the log, detached."""


class LossTask(Protocol):
    """What such a stage brings."""

    model: nn.Module
    """The network; parameters that require no gradient are left alone. It is moved to the device."""

    def batch(self, step: int) -> Any:
        """The batch of a step, a pure function of (seed, step). Runs in a worker process."""
        ...

    def loss(self, batch: Any, step: int) -> Loss:
        """The loss of a step, a pure function of weights, batch, seed and step. Runs under autocast, the batch on the
        network's device."""
        ...

    def watch(self, board: Board, step: int) -> None:
        """Put pictures, videos and measurements of the averaged weights on the board."""
        ...

    def export(self, folder: Path) -> None:
        """Write the averaged weights as they are shipped."""
        ...


class Supervised:
    """The loop's task for a `LossTask`."""

    def __init__(self, task: LossTask, config: TrainConfig) -> None:
        task.model.to(config.device)
        self._task = task
        self._config = config
        self._trained = Trained(task.model, config.optimizer, steps=config.steps)
        self.networks: Mapping[str, Trained] = {"model": self._trained}
        self.batch, self.watch, self.export = task.batch, task.watch, task.export

    def train_step(self, batch: Any, step: int) -> dict[str, float]:
        """One update of the network; see loop.Task."""
        self._task.model.train()
        with self._config.autocast():
            loss = self._task.loss(batch, step)
        value = loss.total.item()
        require_finite("the loss", value)
        loss.total.backward()
        metrics = self._trained.update(step)
        return {"loss": value, **{name: part.item() for name, part in loss.parts.items()}, **metrics}

    def state(self) -> dict[str, Any]:
        """Nothing but the networks survives a stop."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to do."""
