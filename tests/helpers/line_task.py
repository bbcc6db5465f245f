"""The smallest task that has everything a stage may have: noise a sample, a loss, pictures of none, and a stream that
goes on from step to step. Also a program: `python -m tests.helpers.line_task OUT STEPS`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.config import OptimizerConfig, RunConfig, TrainConfig
from training.engine.checkpoint import read_checkpoint
from training.engine.distributed import DistContext, joined
from training.engine.loop import train
from training.engine.metrics import MetricsLogger
from training.engine.run_folder import RunFolder
from training.engine.seeding import normal
from training.engine.supervised import Loss, Supervised


@dataclass(frozen=True, kw_only=True, slots=True)
class LineConfig(TrainConfig):
    """Fit a line to points that wander."""

    batch: int = 4
    width: int = 8
    poison: int = -1
    """Step at which the loss of the last sample is no number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LineBatch:
    moves: Tensor
    """[B, 3]."""
    samples: range


class LineTask:
    """A small regression through the real optimisers."""

    def __init__(self, config: LineConfig) -> None:
        torch.manual_seed(config.seed)
        self._config = config
        self._samples = DistContext.current().samples(config.batch)
        self.model = nn.Sequential(nn.Linear(3, config.width), nn.SiLU(), nn.Linear(config.width, 1))
        self.exported: list[Tensor] = []
        self.exports: dict[str, list[Tensor]] = {}
        self.steps_told: list[int] = []
        self.points = torch.zeros(len(self._samples), 3)
        """[B, 3]; where the points of the latest step were."""

    def batch(self, step: int) -> LineBatch:
        moves = normal([3], self._config.seed, "moves", step, samples=self._samples)
        return LineBatch(moves=moves, samples=self._samples)

    def loss(self, batch: LineBatch, step: int) -> Loss:
        config = self._config
        mine = [sample - self._samples.start for sample in batch.samples]
        self.points[mine] = 0.9 * self.points[mine] + batch.moves
        x = self.points[mine]
        noise = normal([1], config.seed, "noise", step, samples=batch.samples)
        error = (self.model(x) - x.sum(1, keepdim=True) - 0.1 * noise).square()
        if step == config.poison and config.batch - 1 in batch.samples:
            error = error * float("nan")
        return Loss(total=error.mean(), parts={"error": error.detach().mean()})

    def watch(self, board: MetricsLogger, step: int) -> None:
        board.scalars({"seen": 1.0}, step)

    def export(self, folder: Path, *, steps: int) -> None:
        self.exported = [parameter.detach().clone() for parameter in self.model.parameters()]
        self.exports[folder.name] = self.exported
        self.steps_told.append(steps)


class ExplodingLine(LineTask):
    """From one step on the loss, and with it the gradient, is a million times as large, up to another step if told."""

    def __init__(self, config: LineConfig, start: int, stop: int = sys.maxsize) -> None:
        super().__init__(config)
        self._steps = range(start, stop)

    def loss(self, batch: LineBatch, step: int) -> Loss:
        loss = super().loss(batch, step)
        return replace(loss, total=loss.total * (1e6 if step in self._steps else 1))


class StreamingLine(Supervised):
    """The line's points survive a stop."""

    def __init__(self, task: LineTask, config: LineConfig) -> None:
        super().__init__(task, config)
        self._line = task

    def state(self) -> dict[str, Any]:
        return {"points": self._line.points, "names": ["x", "y"]}

    def restore(self, state: dict[str, Any]) -> None:
        assert state["names"] == ["x", "y"]
        self._line.points = state["points"]


def make_config(out: Path, *, steps: int = 4, **changes: object) -> LineConfig:
    run = RunConfig(out=str(out), workers=0, log_every=1, watch_every=2, device="cpu")
    optimizer = OptimizerConfig(lr=0.05, warmup=1, decay=2, ema=0.9, muon=True, muon_precision="float32")
    return LineConfig(run=run, seed=3, precision="float32", steps=steps, optimizer=optimizer, **changes)


def paused(config: LineConfig) -> LineConfig:
    """The same run, in pieces of one step."""
    return replace(config, run=replace(config.run, max_minutes=1e-9))


def saving_always(config: LineConfig) -> LineConfig:
    """The same run, with a checkpoint after every step."""
    return replace(config, run=replace(config.run, save_minutes=1e-9, watch_every=1000, log_every=1000))


def fit(task: LineTask, config: LineConfig, *, stage: str = "line") -> bool:
    return train(StreamingLine(task, config), config, stage=stage)


def run_line(config: LineConfig) -> None:
    """Train as the command line does."""
    with joined(config.device):
        fit(LineTask(config), config)


def saved_state(config: TrainConfig, *, stage: str = "line") -> dict[str, Any]:
    """What a run's checkpoint holds, whole."""
    folder = RunFolder(config, stage=stage)
    assert folder.checkpoint_path is not None
    return read_checkpoint(folder.checkpoint_path, lambda path, shape, dtype: torch.empty(shape, dtype=dtype))


def tensors_of(state: Any, prefix: str = "") -> dict[str, Tensor]:
    """Every tensor in a state, by its path."""
    if isinstance(state, Tensor):
        return {prefix: state}
    entries = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    found: dict[str, Tensor] = {}
    for key, value in entries:
        found |= tensors_of(value, f"{prefix}/{key}")
    return found


def assert_same_state(left: Any, right: Any, *, within: float) -> None:
    """Two states hold the same tensors, bit for bit if `within` is 0."""
    mine, theirs = tensors_of(left), tensors_of(right)
    assert mine.keys() == theirs.keys() and mine
    for name, tensor in mine.items():
        torch.testing.assert_close(
            theirs[name], tensor, atol=within, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


if __name__ == "__main__":
    run_line(saving_always(make_config(Path(sys.argv[1]), steps=int(sys.argv[2]))))
