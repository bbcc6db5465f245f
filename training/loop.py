"""The loop that every trained stage shares: batches, steps, averages, logs, checkpoints, and a clean stop.

Batches and noise are pure functions of (seed, step), so a checkpoint needs the weights, their averages, the optimisers'
state and the step, and a run cut into pieces equals an uncut one bit for bit.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .board import Board
from .config import TrainConfig
from .divergence import TrainingDiverged
from .run_folder import RunFolder
from .trained import Trained

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What a keyboard and a cluster's scheduler send to end a run."""
Batch = Any
"""A tensor, or a dataclass of tensors and other things; only the task looks inside."""


class Task(Protocol):
    """What a stage brings to the loop; `Supervised` makes one of a network and a loss."""

    networks: Mapping[str, Trained]
    """What is trained, by name, where it is trained."""

    def batch(self, step: int) -> Batch:
        """The batch of a step, a pure function of (seed, step). Runs in a worker process."""
        ...

    def train_step(self, batch: Batch, step: int) -> dict[str, float]:
        """Train on a batch that lies on the device, and update every network; metrics for the log.

        A pure function of weights, optimisers, `state`, batch, seed and step.

        Raises:
            TrainingDiverged: a loss or a gradient is not finite.
        """
        ...

    def state(self) -> dict[str, Any]:
        """What else a stopped run needs to go on as if it had not been: tensors and plain values."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
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
        TrainingDiverged: a loss or a gradient is NaN or infinite; the last checkpoint is from before.
    """
    folder = RunFolder(config, stage=stage)
    trainer = _Trainer(task, config, folder)
    trainer.resume()
    with Board(folder.path / "board", step=trainer.step) as board:
        finished = trainer.run(board)
    if finished:
        with _averaged(task):
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


@contextmanager
def _averaged(task: Task) -> Iterator[None]:
    """Every network of the task holds its averages inside the block."""
    with ExitStack() as stack:
        for trained in task.networks.values():
            stack.enter_context(trained.averaged())
        yield


class _Trainer:
    """The state of a run: its task's networks and the step."""

    def __init__(self, task: Task, config: TrainConfig, folder: RunFolder) -> None:
        self._task = task
        self._config = config
        self._folder = folder
        self._device = config.device
        self.step = 0

    def resume(self) -> None:
        saved = self._folder.load()
        if saved is None:
            return
        for name, trained in self._task.networks.items():
            trained.restore(saved["networks"][name])
        self._task.restore(saved["task"])
        self.step = saved["step"]
        logger.info("resumed at step %d", self.step)

    def save(self) -> None:
        self._folder.save(
            {
                "step": self.step,
                "networks": {name: trained.state() for name, trained in self._task.networks.items()},
                "task": self._task.state(),
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
                    bar.set_postfix_str(" ".join(f"{name} {value:.4g}" for name, value in list(metrics.items())[:2]))
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
        try:
            metrics = self._task.train_step(_moved(batch, self._device), self.step)
        except TrainingDiverged as problem:
            raise TrainingDiverged(
                f"{problem} at step {self.step}; lower optimizer.lr (it is {self._config.optimizer.lr:g}) "
                f"and start again, or go on from {self._folder.checkpoint_path} with float32 precision in a new run."
            ) from problem
        self.step += 1
        return metrics

    @torch.no_grad()
    def _watch(self, board: Board) -> None:
        for trained in self._task.networks.values():
            trained.network.eval()
        # A sample has shapes of its own, a rollout one a chunk: compiling them would take longer than they do.
        uncompiled = torch.compiler.set_stance("force_eager")
        with _averaged(self._task), self._config.autocast(), uncompiled:
            self._task.watch(board, self.step)
