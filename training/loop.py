"""The loop that every trained stage shares: batches, steps, averages, logs, checkpoints, and a clean stop.

Batches and noise are pure functions of (seed, step), so a checkpoint needs the weights, their averages, the optimisers'
state and the step, and a run cut into pieces equals an uncut one bit for bit.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .board import Board
from .config import TrainConfig
from .ema import MovingAverage
from .optim import Optimizers
from .run_folder import RunFolder

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What a keyboard and a cluster's scheduler send to end a run."""
Batch = Any
"""A tensor, or a dataclass of tensors and other things; only the task looks inside."""


class TrainingDiverged(RuntimeError):
    """The loss is no longer a number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """What one step minimises, and what it reports."""

    total: Tensor
    """Scalar."""
    parts: dict[str, Tensor]
    """Scalars for the log, detached."""


class Task(Protocol):
    """What a stage brings to the loop."""

    model: nn.Module
    """The network; parameters that require no gradient are left alone. The loop moves it to the device."""

    def batch(self, step: int) -> Batch:
        """The batch of a step, a pure function of (seed, step). Runs in a worker process."""
        ...

    def loss(self, batch: Batch, step: int) -> Loss:
        """The loss of a step, a pure function of weights, batch, seed and step. Runs under autocast, the batch on the
        network's device."""
        ...

    def watch(self, board: Board, step: int) -> None:
        """Put pictures, videos and measurements of the averaged weights on the board."""
        ...

    def export(self, folder: Path) -> None:
        """Write the averaged weights as they are shipped."""
        ...


class _Batches(Dataset):
    """The batches of the steps from `start` on, as a data set, so that workers can prepare them."""

    def __init__(self, make: Callable[[int], Batch], start: int, stop: int) -> None:
        self._make, self._start, self._stop = make, start, stop

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, index: int) -> Batch:
        return self._make(self._start + index)


def train(task: Task, config: TrainConfig, *, stage: str) -> bool:
    """Train, or go on training, until `config.steps` or `config.run.max_minutes`. True when the run is finished.

    Raises:
        ConfigError: the folder belongs to a run of another configuration.
        TrainingDiverged: the loss is NaN or infinite; the last checkpoint is from before.
    """
    folder = RunFolder(config, stage=stage)
    trainer = _Trainer(task, config, folder)
    trainer.resume()
    with Board(folder.path / "board", step=trainer.step) as board:
        finished = trainer.run(board)
    if finished:
        with trainer.average.applied():
            task.export(folder.path)
        logger.info("%s is finished: %d steps, results in %s", stage, trainer.step, folder.path)
    else:
        logger.info("%s paused at step %d of %d; the same command goes on", stage, trainer.step, config.steps)
    return finished


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that an interrupt or a termination signal sets: the step under way is finished and saved first."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = [signal.signal(number, lambda *_: stop.set()) for number in STOP_SIGNALS]
    try:
        yield stop
    finally:
        for number, handler in zip(STOP_SIGNALS, previous, strict=True):
            signal.signal(number, handler)


def _leave_stopping_alone(worker: int) -> None:
    """In a worker: such a signal often goes to a whole process group, but the run still needs its batch to end well."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _moved(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if is_dataclass(batch):
        return replace(batch, **{field.name: _moved(getattr(batch, field.name), device) for field in fields(batch)})
    return batch


class _Trainer:
    """The state of a run: weights, averages, optimisers, step."""

    def __init__(self, task: Task, config: TrainConfig, folder: RunFolder) -> None:
        self._task = task
        self._config = config
        self._folder = folder
        task.model.to(config.device)
        self._optimizers = Optimizers(task.model, config.optimizer, steps=config.steps)
        self.average = MovingAverage(task.model, config.optimizer.ema)
        self.step = 0

    def resume(self) -> None:
        saved = self._folder.load()
        if saved is None:
            return
        self._task.model.load_state_dict(saved["model"])
        self.average.restore(saved["average"])
        self._optimizers.restore(saved["optimizers"])
        self.step = saved["step"]
        logger.info("resumed at step %d", self.step)

    def save(self) -> None:
        self._folder.save(
            {
                "step": self.step,
                "model": self._task.model.state_dict(),
                "average": self.average.state(),
                "optimizers": self._optimizers.state(),
            }
        )

    def run(self, board: Board) -> bool:
        run = self._config.run
        started = saved = time.monotonic()
        bar = tqdm(total=self._config.steps, initial=self.step, unit="step", mininterval=5.0)
        with bar, _stop_requests() as stop:
            for batch in self._batches():
                metrics = self._take_step(batch)
                bar.update()
                if self.step % run.log_every == 0:
                    board.scalars(metrics, self.step)
                    bar.set_postfix_str(f"loss {metrics['loss']:.4f}")
                if self.step % run.watch_every == 0 or self.step == self._config.steps:
                    self._watch(board)
                now = time.monotonic()
                over = run.max_minutes is not None and now - started > 60 * run.max_minutes
                if over or stop.is_set():
                    break
                if now - saved > 60 * run.save_minutes:
                    self.save()
                    saved = now
        self.save()
        return self.step >= self._config.steps

    def _batches(self) -> Iterator[Batch]:
        workers = self._config.run.workers
        batches = _Batches(self._task.batch, self.step, self._config.steps)
        ahead = {"prefetch_factor": 4, "worker_init_fn": _leave_stopping_alone} if workers else {}
        return iter(DataLoader(batches, batch_size=None, num_workers=workers, **ahead))

    def _take_step(self, batch: Batch) -> dict[str, float]:
        self._task.model.train()
        with self._config.autocast():
            loss = self._task.loss(_moved(batch, self._config.device), self.step)
        value = loss.total.item()
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"the loss is {value} at step {self.step}; lower optimizer.lr (it is {self._config.optimizer.lr:g}) "
                f"and start again, or go on from {self._folder.checkpoint_path} with float32 precision in a new run."
            )
        loss.total.backward()
        metrics = self._optimizers.step(self.step)
        self.average.update(self.step)
        self.step += 1
        return {"loss": value, **{name: part.item() for name, part in loss.parts.items()}, **metrics}

    @torch.no_grad()
    def _watch(self, board: Board) -> None:
        self._task.model.eval()
        # A sample has shapes of its own, a rollout one a chunk: compiling them would take longer than they do.
        uncompiled = torch.compiler.set_stance("force_eager")
        with self.average.applied(), self._config.autocast(), uncompiled:
            self._task.watch(board, self.step)
