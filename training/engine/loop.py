"""The loop that every trained stage shares: batches, steps, averages, logs, checkpoints, and a clean stop.

Batches and noise are pure functions of (seed, step, sample), so a checkpoint needs the weights, their averages, the
optimisers' moments and the step; a run cut into pieces equals an uncut one bit for bit, and one shared among processes
equals it to rounding.
"""

from __future__ import annotations

import logging
import shlex
import signal
import sys
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

from ..config import TrainConfig, has_key
from .checkpoint import from_all, like_mine, of_all
from .checks import TrainingDiverged, require_finite
from .distributed import DistContext, gathered
from .metrics import MetricsLogger, open_metrics
from .model_state import TrainableModel
from .run_folder import RunFolder

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What a keyboard and a cluster's scheduler send to end a run; torchrun passes them on to its processes."""


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
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


def leave_stopping_alone(worker: int) -> None:
    """Ignore such a signal in a worker: it often goes to the whole process group, and the run needs its batch."""
    del worker
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def peak_memory(device: torch.device) -> dict[str, float]:
    """Most memory that this process has had, in GiB: of its GPU, or of the machine on a CPU; nothing on Windows."""
    if device.type == "cuda":
        return {"peak_memory_gib": torch.cuda.max_memory_allocated(device) / 2**30}
    if sys.platform == "win32":
        return {}
    import resource

    unit = 1 if sys.platform == "darwin" else 2**10
    return {"peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30}


class StepPace:
    """Time that steps take, with the wait for their batches and without what is done between them."""

    def __init__(self) -> None:
        self._steps, self._seconds = 0, 0.0
        self.start()

    def start(self) -> None:
        """The next step begins."""
        self._started = time.monotonic()

    def stop(self) -> None:
        """It is done."""
        self._steps += 1
        self._seconds += time.monotonic() - self._started

    def read(self) -> dict[str, float]:
        """Seconds a step since the last reading."""
        mean = self._seconds / self._steps
        self._steps, self._seconds = 0, 0.0
        return {"seconds_per_step": mean}


EXPORT_CONFIG = Path(__file__).parents[1] / "configs" / "wan" / "export.yaml"
"""Its settings are all overridden but for those of a run."""


def way_on(config: TrainConfig, step: int) -> str:
    """The rest of a sentence that says what to lower: where, and how what was learnt until the checkpoint is kept.

    step: that checkpoint's, 0 if there is none. Only stages whose student starts from `init` can begin with it.
    """
    precision = config.precision
    wider = "" if precision == "float32" else f", or write precision=float32 (it is {precision}),"
    again = f"{wider} in a new run, with another run.out."
    if not (step and has_key(config, "student") and has_key(config, "init")):
        return again
    out, target = config.run.out, Path(config.run.out) / "export"
    settings = [f"source={out}", "weights=raw", "dtype=float32", f"run.out={target}"]
    command = shlex.join(["python", "-m", "training", "export", "--config", str(EXPORT_CONFIG), *settings])
    return (
        f"{again} To begin it with what was learnt until step {step}, give `{command}`, then name "
        f"{target / 'student.safetensors'} in init."
    )


CAN_FORK = sys.platform == "linux"
"""Whether processes may be forked; macOS has it, too, but its libraries do not survive it."""

Batch = Any
"""A tensor, or a dataclass of tensors and other things; only the task looks inside."""


class Task(Protocol):
    """The parts that a stage brings to the loop; `Supervised` makes one of a network and a loss."""

    networks: Mapping[str, TrainableModel]
    """What is trained, by name, where it is trained."""

    def batch(self, step: int) -> Batch:
        """Return this process's samples of a step's batch (`DistContext.samples`).

        A pure function of (seed, step, samples), run in a worker process.
        """
        ...

    def train_step(self, batch: Batch, step: int) -> dict[str, float]:
        """Train on a batch that lies on the device, and update every network; metrics for the log.

        A pure function of weights, optimisers, `state`, batch, seed and step. Losses are means over the samples of the
        batch, and so are metrics, of which every process gives the same ones: the loop takes their mean over processes
        and sees that it is finite.

        Raises:
            TrainingDiverged: training must not go on. Raise it for what all processes see alike, as
            `TrainableModel.update`
                does; for what only one sees, the others would wait.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Return what else a stopped run needs to go on as if it had not been: nested dicts with text keys and lists.

        In them are tensors with this process's samples on their first axis, alike in shape in every process, and plain
        JSON values, the same in every process.
        """
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        ...

    def watch(self, log: MetricsLogger, step: int) -> None:
        """Log pictures, videos and measurements of the averaged weights.

        Every process does the same, with whole weights; only the main one writes.
        """
        ...

    def export(self, folder: Path, *, steps: int) -> None:
        """Write the averaged weights as they are shipped, with `write_weights`.

        That gathers sharded ones and writes in the main process only. steps: taken so far, for the file's header.
        """
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

    It is neither saved nor paused right after a gradient out of proportion: a few updates later that has passed, or
    gradients have exploded.

    Raises:
        ConfigError: the folder belongs to a run of another configuration.
        TrainingDiverged: a loss or a gradient is NaN or infinite, or gradients have exploded; the last checkpoint was
            written while they were in proportion.
        CheckpointError: a checkpoint could not be written or read; the last one written is as it was.
    """
    folder = RunFolder(config, stage=stage)
    trainer = _Trainer(task, config, folder)
    trainer.resume()
    with open_metrics(config.run, step=trainer.step) as log:
        finished = trainer.run(log)
    if finished:
        trainer.export(folder.path)
        logger.info("%s is finished: %d steps, results in %s", stage, trainer.step, folder.path)
    else:
        logger.info("%s paused at step %d of %d; the same command goes on", stage, trainer.step, config.steps)
    return finished


def _moved(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if is_dataclass(batch):
        return replace(batch, **{field.name: _moved(getattr(batch, field.name), device) for field in fields(batch)})
    return batch


@contextmanager
def _averaged(task: Task, *, whole: bool) -> Iterator[None]:
    """Every network of the task holds its averages inside the block, and all of them in every process if `whole`."""
    with ExitStack() as stack:
        for trained in task.networks.values():
            stack.enter_context(trained.averaged())
            if whole:
                stack.enter_context(gathered(trained.network))
        yield


class _Trainer:
    """The state of a run: its task's networks and the step."""

    def __init__(self, task: Task, config: TrainConfig, folder: RunFolder) -> None:
        self._task = task
        self._config = config
        self._folder = folder
        self._device = config.device
        self._world = DistContext.current()
        self._started = self._saved = time.monotonic()
        self.step = 0

    def resume(self) -> None:
        saved = self._folder.load(self._empty)
        if saved is None:
            return
        for name, trained in self._task.networks.items():
            trained.restore(saved["networks"][name])
        self._task.restore(from_all(saved["task"]))
        self.step = saved["step"]
        logger.info("resumed at step %d", self.step)

    def save(self) -> None:
        state = {
            "step": self.step,
            "networks": {name: trained.state() for name, trained in self._task.networks.items()},
            "task": of_all(self._task.state()),
        }
        self._folder.save(self.step, state)
        self._saved = time.monotonic()

    def export(self, folder: Path) -> None:
        """Write what has been learnt so far."""
        with _averaged(self._task, whole=False):
            self._task.export(folder, steps=self.step)

    def run(self, log: MetricsLogger) -> bool:
        bar = tqdm(
            total=self._config.steps,
            initial=self.step,
            unit="step",
            mininterval=5.0,
            disable=not self._world.is_main,
        )
        pace = StepPace()
        # A kill may have come between a checkpoint and the export of the same step.
        self._export_by_the_way()
        with bar, stop_requests() as stop:
            for batch in self._batches():
                metrics = self._take_step(batch)
                pace.stop()
                bar.update()
                if self.step % self._config.run.log_every == 0:
                    usage = {**pace.read(), **peak_memory(self._device)}
                    log.scalars({**metrics, **usage}, self.step)
                    bar.set_postfix_str(" ".join(f"{name} {value:.4g}" for name, value in list(metrics.items())[:2]))
                watched = self.step % self._config.run.watch_every == 0 or self.step == self._config.steps
                # First of all: whatever goes wrong with looking must not cost what has been learnt.
                if watched and not self._is_in_doubt:
                    self.save()
                self._export_by_the_way()
                if watched:
                    self._watch(log)
                if self._is_over(stop.is_set()):
                    break
                pace.start()
        self.save()
        return self.step >= self._config.steps

    def _export_by_the_way(self) -> None:
        """Export what has been learnt by this step, if `run.export_every` says so."""
        every = self._config.run.export_every
        if every and self.step and self.step % every == 0:
            self.export(self._folder.path / "steps" / f"{self.step:06d}")

    def _is_over(self, asked_to_stop: bool) -> bool:
        """Return whether this piece of the run ends here; saves when it is time to. All processes decide alike."""
        run, now = self._config.run, time.monotonic()
        late = run.max_minutes is not None and now - self._started > 60 * run.max_minutes
        over, save = self._world.any(late or asked_to_stop, now - self._saved > 60 * run.save_minutes)
        if self._is_in_doubt:
            if over:
                logger.info("step %d had a gradient out of proportion; this pauses once that has passed", self.step)
            return False
        if save and not over:
            self.save()
        return over

    @property
    def _is_in_doubt(self) -> bool:
        """Return whether these weights may be exploding, so that the checkpoint had better be an earlier one.

        A run that is at its end has not exploded.
        """
        return self.step < self._config.steps and any(trained.in_doubt for trained in self._task.networks.values())

    def _batches(self) -> Iterator[Batch]:
        workers = self._config.run.workers if CAN_FORK else 0
        batches = _Batches(self._task.batch, self.step, self._config.steps)
        # Whatever Python's usual way: a new process would have to be sent the task, with all its networks.
        ahead = {"prefetch_factor": 4, "worker_init_fn": leave_stopping_alone, "multiprocessing_context": "fork"}
        return iter(DataLoader(batches, batch_size=None, num_workers=workers, **(ahead if workers else {})))

    def _take_step(self, batch: Batch) -> dict[str, float]:
        try:
            metrics = self._world.mean(self._task.train_step(_moved(batch, self._device), self.step))
            self._require_finite(metrics)
        except TrainingDiverged as problem:
            advice = way_on(self._config, self._folder.step)
            raise TrainingDiverged(f"step {self.step}: {problem}{advice}") from problem
        self.step += 1
        return metrics

    def _require_finite(self, metrics: Mapping[str, float]) -> None:
        """Raise as `TrainableModel.update` does if a metric is no number; whose fault that is cannot be told."""
        for name, value in metrics.items():
            try:
                require_finite(name, value)
            except TrainingDiverged as problem:
                rates = " and ".join(trained.rate for trained in self._task.networks.values())
                raise TrainingDiverged(f"{problem}; lower {rates}") from problem

    @torch.no_grad()
    def _watch(self, log: MetricsLogger) -> None:
        for trained in self._task.networks.values():
            trained.network.eval()
        # A sample has shapes of its own, a rollout one a chunk: compiling them would take longer than they do.
        uncompiled = torch.compiler.set_stance("force_eager")
        with _averaged(self._task, whole=True), self._config.autocast(), uncompiled:
            self._task.watch(log, self.step)

    def _empty(self, path: tuple[str, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return what to read an entry of the checkpoint into."""
        kind, *rest = path
        if kind == "task":
            return like_mine(shape, dtype)
        name, *entry = rest
        return self._task.networks[name].empty(entry, shape, dtype)
