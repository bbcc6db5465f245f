"""Stages that minimise one loss over one network, as a task of the loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from ..config import TrainConfig
from .distributed import place
from .metrics import MetricsLogger
from .micro_batches import micro_batches
from .model_state import TrainableModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """The loss of one step, and the metrics that it reports."""

    total: Tensor
    """Scalar."""
    parts: dict[str, Tensor]
    """Scalars for the log, detached."""


class LossTask(Protocol):
    """The parts that such a stage brings."""

    model: nn.Module
    """The network; parameters that require no gradient are left alone. It is put where it is trained."""

    def batch(self, step: int) -> Any:
        """Return this process's part of a step's batch, `DistContext.samples` of it.

        A pure function of (seed, step, samples) that `micro_batches` can cut. Runs in a worker process.
        """
        ...

    def loss(self, batch: Any, step: int) -> Loss:
        """Return the mean loss over the samples of a batch or of a part of it.

        A pure function of weights, batch, seed and step. Runs under autocast, the batch on the network's device. What
        it draws for a sample must not depend on which others are there: see `seeding.normal`.
        """
        ...

    def watch(self, log: MetricsLogger, step: int) -> None:
        """Log pictures, videos and measurements of the averaged weights."""
        ...

    def export(self, folder: Path, *, steps: int) -> None:
        """Write the averaged weights as they are shipped."""
        ...


class Supervised:
    """The loop's task for a `LossTask`."""

    def __init__(self, task: LossTask, config: TrainConfig) -> None:
        place(task.model, config)
        self._task = task
        self._config = config
        self._trained = TrainableModel(task.model, config.optimizer, steps=config.steps, name="model")
        self.networks: Mapping[str, TrainableModel] = {"model": self._trained}
        self.batch, self.watch, self.export = task.batch, task.watch, task.export

    def train_step(self, batch: Any, step: int) -> dict[str, float]:
        """One update of the network; see loop.Task."""
        self._task.model.train()
        parts = micro_batches(batch, self._config.accumulate)
        found = [self._backward(part, step, share=1 / len(parts)) for part in parts]
        means = {name: sum(part[name] for part in found) / len(found) for name in found[0]}
        return {**means, **self._trained.update(step)}

    def _backward(self, batch: Any, step: int, *, share: float) -> dict[str, float]:
        """Add a part of the batch to the gradient."""
        with self._config.autocast():
            loss = self._task.loss(batch, step)
        (loss.total * share).backward()
        return {"loss": loss.total.item(), **{name: part.item() for name, part in loss.parts.items()}}

    def state(self) -> dict[str, Any]:
        """Nothing but the networks survives a stop."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to do."""
