"""What a causal student can be started off with: each objective makes its own batches and says what they cost."""

from __future__ import annotations

from typing import Any, Protocol

from ..supervised import Loss


class Objective(Protocol):
    """One way to start a student off."""

    def batch(self, step: int) -> Any:
        """This process's part of a step's batch, a pure function of (seed, step); see `loop.Task.batch`."""
        ...

    def loss(self, batch: Any, step: int) -> Loss:
        """What it costs; see `supervised.LossTask.loss`."""
        ...
