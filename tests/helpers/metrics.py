"""What a run has put on its board."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def logged_steps(run: Path) -> dict[str, list[int]]:
    """The steps at which each curve of a run's TensorBoard log has a value, by the curve's name."""
    board = EventAccumulator(str(run / "board")).Reload()
    return {name: [event.step for event in board.Scalars(name)] for name in board.Tags()["scalars"]}


def logged(run: Path) -> dict[str, list[float]]:
    """The curves of a run's TensorBoard log, by name."""
    board = EventAccumulator(str(run / "board")).Reload()
    return {name: [event.value for event in board.Scalars(name)] for name in board.Tags()["scalars"]}
