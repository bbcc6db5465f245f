"""Configuration of every stage, and how it is read: a YAML file, then `key=value` words of the command line.

A stage's configuration is a frozen dataclass that extends `StageConfig` or `TrainConfig`. YAML files and words go over
its own values. Keys that it does not have, values that it refuses, and files that cannot be used are reported in a
sentence (`ConfigError`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from safetensors import SafetensorError
from yaml import MarkedYAMLError, YAMLError

MAX_SEED = 2**63 - 1


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says which key, what it holds and what to write instead."""


def require(condition: bool, message: str) -> None:
    """Raise ConfigError(message) unless the condition holds."""
    if not condition:
        raise ConfigError(message)


@contextmanager
def usable(named: str, *, instead: str) -> Iterator[None]:
    """Raise ConfigError if a file of our own that is opened inside is not there, is damaged or holds something else.

    named: what names the file, and the file. instead: what to do, for the rest of the sentence.
    """
    try:
        yield
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ConfigError(f"{named} cannot be used ({error}); {instead}.") from error


def with_file(config: DictConfig, path: Path) -> DictConfig:
    """A configuration with what a YAML file says over it.

    Raises:
        ConfigError: no such file, one that cannot be read, or a key or a value that the configuration does not take.
    """
    require(path.is_file(), f"{path} is no file; name a configuration, e.g. training/configs/tiny/vae.yaml.")
    with _readable(str(path), instead="write lines of `key: value`, in UTF-8, indented with spaces"):
        content = OmegaConf.load(path)
        require(isinstance(content, DictConfig), f"{path} holds a list; write lines of `key: value`.")
        return OmegaConf.merge(config, content)


def with_words(config: DictConfig, words: Sequence[str], *, example: str) -> DictConfig:
    """A configuration with `key=value` words of a command line over it. example: such a word, for refusals.

    Raises:
        ConfigError: a word is none of these, cannot be read, or says what the configuration does not take.
    """
    for word in words:
        require("=" in word, f"{word!r} is no override; write key=value, e.g. {example}.")
    try:
        return OmegaConf.merge(config, OmegaConf.from_dotlist(list(words)))
    except Exception:
        # One after the other, so that a refusal can name its word.
        for end, word in enumerate(words, start=1):
            with _readable(repr(word), instead=f"write key=value, e.g. {example}, with lists as [1, 2]"):
                OmegaConf.merge(config, OmegaConf.from_dotlist(list(words[:end])))
        raise


def as_dataclass(config: DictConfig, *, named: str) -> Any:
    """The dataclass that a configuration was begun with, holding what it says now. named: what said it, for refusals.

    Raises:
        ConfigError: a value is missing, or the dataclass refuses one.
    """
    with _accepted(named):
        return OmegaConf.to_object(config)


@contextmanager
def _accepted(named: str) -> Iterator[None]:
    """Raise as a ConfigError what OmegaConf does not accept."""
    try:
        yield
    except (ConfigKeyError, ConfigAttributeError) as error:
        raise ConfigError(
            f"{named}: there is no key {error.full_key!r} in this stage or command; mend its name."
        ) from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{named}: {error.full_key or 'all of it'}: {error.msg or error}") from error


@contextmanager
def _readable(named: str, *, instead: str) -> Iterator[None]:
    """The same, and what cannot even be read, or is of another shape than what it is to go over."""
    try:
        with _accepted(named):
            yield
    except ConfigError:
        raise
    except (YAMLError, OSError, ValueError, TypeError, IndexError) as error:
        raise ConfigError(f"{named} cannot be used ({_reason(error)}); {instead}.") from error


def _reason(error: Exception) -> str:
    """Return what is wrong, in one line; what YAML says of its place fills several."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split())


PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@contextmanager
def core_refusals() -> Iterator[None]:
    """Raise as a ConfigError what the core refuses with a ValueError: settings and sizes that it checks itself."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(str(error)) from error


def check_starts(starts: Sequence[int]) -> None:
    """Raise ConfigError unless the phases of a run start at step 0 and then at later and later ones."""
    rising = list(starts[:1]) == [0] and all(first < second for first, second in pairwise(starts))
    require(rising, f"phases start at steps {list(starts)}; they must rise, from 0.")


class Phased(Protocol):
    """A part of a run with settings of its own."""

    start: int
    """First step."""


PhaseT = TypeVar("PhaseT", bound=Phased)


def phase_at(phases: Sequence[PhaseT], step: int) -> PhaseT:
    """The phase that a step belongs to."""
    return max((phase for phase in phases if phase.start <= step), key=lambda phase: phase.start)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """The settings of how a run is carried out.

    Nothing here changes what is learnt, except for the rounding of `compile` and `device`. A resumed run may change
    it.
    """

    out: str
    """Folder of the run: its configuration, checkpoint, logs and results."""
    max_minutes: float | None = None
    """Stop cleanly after this long; the same command then goes on from there. None: until the end."""
    save_minutes: float = 4.0
    """Time between checkpoints."""
    log_every: int = 20
    """Steps between scalars."""
    watch_every: int = 500
    """Steps between sample pictures and videos."""
    export_every: int | None = None
    """Steps between exports of what has been learnt so far, each into a folder of its own, steps/000100 and so on."""
    workers: int = 1
    """Processes that prepare batches ahead, on Linux; 0, and other systems, prepare them in the training process."""
    compile: bool = False
    """Compile what takes most of the time: a start-up of about a minute buys faster steps, which round differently. It
    is, in one process only, the network of vae, teacher and causal_init, and of self_forcing and sfpp teacher and
    critic, not the student; and in any number of processes the encoder of latents, the teacher of ode_pairs and the
    decoder of evaluate. grpo refuses it; other stages compile nothing."""
    checkpoint_activations: bool = False
    """Transformer blocks keep their inputs only and are computed again on the way back: less memory, more time."""
    gather_rollouts: bool = True
    """With several processes, keep a network's weights gathered for the length of a rollout: less traffic between
    processes, more memory (2.8 GB for the 1.3B model in bfloat16)."""
    device: str = "auto"
    """Where networks run: cpu, cuda, cuda:1, ...; auto takes a GPU where there is one, under torchrun each process its
    own. Randomness is drawn on the CPU wherever they run."""
    wandb: str | None = None
    """Project of Weights & Biases that the log is copied to, if any; the key comes from the environment."""

    def __post_init__(self) -> None:
        require(bool(self.out), "run.out is empty; name the folder of the run, e.g. run.out=runs/vae.")
        if self.max_minutes is not None:
            require(self.max_minutes > 0, f"run.max_minutes is {self.max_minutes}; it must be above 0, or null.")
        require(self.save_minutes > 0, f"run.save_minutes is {self.save_minutes}; it must be above 0.")
        for name in ("log_every", "watch_every", "export_every"):
            every = getattr(self, name)
            require(every is None or every >= 1, f"run.{name} is {every}; it must be at least 1.")
        require(self.workers >= 0, f"run.workers is {self.workers}; it must be 0 or more.")
        known = self.device == "auto" or self.device.partition(":")[0] in ("cpu", "cuda")
        require(known, f"run.device is {self.device!r}; write auto, cpu or cuda, e.g. cuda:0.")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """AdamW, or Muon on the weights of layers and AdamW on the rest, with a trapezoidal learning rate."""

    lr: float
    """Highest learning rate; Muon's updates are scaled so that one value serves both (Liu et al. 2025)."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's decay rates."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    muon: bool = False
    """Orthogonalised momentum (see `muon`) for the weights of linear and convolution layers."""
    muon_precision: str = "bfloat16"
    """What the orthogonalisation computes in. Its bfloat16 makes last bits of a gradient, which depend on the number of
    processes, matter in the third digit of an update; float32 does not, and takes longer."""
    warmup: int = 100
    """Updates from 0 to the highest rate."""
    decay: int = 0
    """Last updates of the run, over which the rate falls to 0; before them a run's length may still be changed."""
    clip: float = 1.0
    """Largest gradient norm; longer gradients are scaled down to it."""
    explosion: float | None = 100.0
    """Training stops when gradients before clipping stay this many times their usual norm (see `divergence`); null
    never stops for that."""
    ema: float = 0.999
    """Decay of the moving average of the weights, which is what is shipped; 0 keeps none. With `ema_start` 0 it is the
    highest: at update n it is at most (1 + n) / (10 + n), which is 0.95 at n = 170, 0.98 at 440 and 0.99 at 890."""
    ema_start: int = 0
    """Updates after which averaging begins, with the whole decay at once; until then the average is the weights
    themselves. 0 averages from the first update on, at first over few."""

    def __post_init__(self) -> None:
        require(self.lr > 0, f"optimizer.lr is {self.lr}; it must be above 0, e.g. 1e-3.")
        require(self.clip > 0, f"optimizer.clip is {self.clip}; it must be above 0.")
        require(
            self.explosion is None or self.explosion > 1,
            f"optimizer.explosion is {self.explosion}; it must be above 1, e.g. 100, or null.",
        )
        require(
            self.muon_precision in PRECISIONS,
            f"optimizer.muon_precision is {self.muon_precision!r}; it must be one of {', '.join(PRECISIONS)}.",
        )
        require(0 <= self.ema < 1, f"optimizer.ema is {self.ema}; it must lie in [0, 1), e.g. 0.999.")
        require(self.weight_decay >= 0, f"optimizer.weight_decay is {self.weight_decay}; it must be 0 or more.")
        in_range = all(0 <= beta < 1 for beta in self.betas)
        require(in_range, f"optimizer.betas are {self.betas}; each must lie in [0, 1).")
        for name in ("warmup", "decay", "ema_start"):
            require(getattr(self, name) >= 0, f"optimizer.{name} is {getattr(self, name)}; it must be 0 or more.")

    def steps_before_decay(self, steps: int, *, updates_a_step: int = 1) -> int:
        """Steps, of a run of `steps`, that end before the rate begins to fall."""
        return max(0, steps - math.ceil(self.decay / updates_a_step))


@dataclass(frozen=True, kw_only=True, slots=True)
class StageConfig:
    """The settings that every stage has."""

    FREE_KEYS: ClassVar[frozenset[str]] = frozenset({"run"})
    """Keys that change nothing of what is learnt or made, but for rounding: a resumed run may have others."""

    run: RunConfig
    seed: int = 0
    """Everything random in the run follows from it."""
    precision: str = "bfloat16"
    """What the network computes in, float32 or bfloat16 (autocast; weights and their updates stay float32)."""

    def __post_init__(self) -> None:
        require(0 <= self.seed <= MAX_SEED, f"seed is {self.seed}; it must lie between 0 and {MAX_SEED}.")
        require(
            self.precision in PRECISIONS, f"precision is {self.precision!r}; it must be one of {', '.join(PRECISIONS)}."
        )

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        has_gpu = torch.cuda.is_available()
        name = self.run.device if self.run.device != "auto" else "cuda" if has_gpu else "cpu"
        require(
            has_gpu or name.startswith("cpu"),
            f"run.device is {name}, but PyTorch {torch.__version__} sees no GPU here; write run.device=cpu.",
        )
        return torch.device(name)

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype that the network computes in."""
        return PRECISIONS[self.precision]

    def autocast(self) -> torch.autocast:
        """The context that the network runs in."""
        dtype = self.compute_dtype
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not torch.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(StageConfig):
    """The settings of every stage that takes optimiser steps."""

    FREE_KEYS: ClassVar[frozenset[str]] = StageConfig.FREE_KEYS | {"accumulate"}

    steps: int
    """Steps of the whole run; one updates every trained network at least once."""
    optimizer: OptimizerConfig
    accumulate: int = 1
    """Parts that each process takes its share of a batch in, one after the other: less memory, the same step. A run
    that goes on may have others, as a share is of another size on another number of processes."""

    def __post_init__(self) -> None:
        StageConfig.__post_init__(self)
        for name in ("steps", "accumulate"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1.")
        edges, updates = self.optimizer.warmup + self.optimizer.decay, self.steps * self.updates_a_step
        told = f"steps is {self.steps}" if self.updates_a_step == 1 else f"there are {updates} updates"
        require(
            edges <= updates,
            f"optimizer.warmup + optimizer.decay is {edges} but {told}; shorten them or train longer.",
        )

    @property
    def updates_a_step(self) -> int:
        """Updates that `optimizer` takes in a step."""
        return 1

    @property
    def steps_before_decay(self) -> int:
        """Steps that end before the first learning rate of the run begins to fall: so long, `steps` may be changed."""
        return self.optimizer.steps_before_decay(self.steps, updates_a_step=self.updates_a_step)


ConfigT = TypeVar("ConfigT", bound=StageConfig)


def load_config(
    kind: type[ConfigT], path: str | Path, overrides: Sequence[str] = (), *, more: Sequence[str | Path] = ()
) -> ConfigT:
    """Read a stage's configuration from a YAML file, with those of `more` over it and `key=value` overrides on top.

    Raises:
        ConfigError: no such file, a file or a word that cannot be read, a key the stage does not have, a missing or an
            impossible value.
    """
    paths = [Path(name) for name in (path, *more)]
    config = OmegaConf.structured(kind)
    for path in paths:
        config = with_file(config, path)
    config = with_words(config, overrides, example="run.out=runs/vae")
    return as_dataclass(config, named=" with ".join(map(str, paths)))


def has_key(config: StageConfig, name: str) -> bool:
    """Return whether a stage's configuration has a key of this name; not all have a `student`, for one."""
    return any(field.name == name for field in fields(config))


def as_plain(config: Any) -> dict[str, Any]:
    """The configuration as nested dicts and lists of plain values, as YAML and JSON give them back."""
    return json.loads(json.dumps(OmegaConf.to_container(OmegaConf.structured(config))))
