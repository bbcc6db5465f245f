"""The folder of a run: its configuration, its checkpoint, and the files that it began with.

Both are written so that a killed process loses nothing. A configuration names files by their paths, and other content
may come to lie there: a teacher that was trained further, prompts that were edited. So a run keeps fingerprints of its
inputs and refuses to go on with others. Folders of finished runs are read here as well.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from sfpp_core.files import replacing

from ..config import ConfigError, StageConfig, TrainConfig, as_plain, require
from .checkpoint import Like, RunCheckpointError, read_checkpoint, write_checkpoint
from .distributed import DistContext

WHOLE_UP_TO = 64 * 2**20
"""Bytes of a file up to which every one of them counts: prompts, and the networks of the built-in family."""
STRIDE, SAMPLE = 2**20, 4096
"""Of a larger file, the first SAMPLE bytes of every STRIDE. No weight matrix in the blocks of the 1.3B model is smaller
than 4 MB, so that none changes unseen; a checkpoint of 5.7 GB takes 23 MB of reading, where all of it would take as
long as opening it does, in every process and at every start."""
PROSE = frozenset({"negative_prompt"})
"""Keys of texts for a network to read. Every other text in a configuration is a path, or a name without a slash."""


def named_files(config: Mapping[str, Any]) -> dict[str, Path]:
    """The files that a plain configuration names, by their dotted keys: whatever text but PROSE is the path of one.

    Folders are not among them. Those of data are runs of their own, which go on with the files that they began with.
    """
    return {key: Path(value) for key, value in _texts(config) if _is_file(value)}


def file_fingerprint(path: Path) -> str:
    """Hexadecimal fingerprint of a file's size and content; of a large one's, of samples."""
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as file:
        if size <= WHOLE_UP_TO:
            digest.update(file.read())
        else:
            for start in range(0, size, STRIDE):
                file.seek(start)
                digest.update(file.read(SAMPLE))
    return digest.hexdigest()


def _texts(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every text in nested dicts and lists but PROSE, with its dotted key."""
    if isinstance(value, str) and prefix.rpartition(".")[2] not in PROSE:
        yield prefix, value
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from _texts(entry, f"{prefix}.{key}" if prefix else str(key))


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        # A prompt, longer than a name can be, or with a character that no name has.
        return False


CONFIG_NAME = "config.yaml"
INPUTS_NAME = "inputs.json"
"""Fingerprints of the files that the configuration names, by key; runs of earlier versions have none."""
CHECKPOINT_PREFIX = "checkpoint-"
"""Of a checkpoint's folder; the step follows."""
PARTIAL_NAME = ".checkpoint.partial"
"""A checkpoint that is being written; under its final name it is complete."""
FORMER_CHECKPOINT_NAME = "checkpoint.pt"


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None for one that has none yet."""
    return max(_checkpoints(folder), default=None)


def _checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints under the name of a step; copies that somebody made under other names are left out."""
    found = folder.glob(f"{CHECKPOINT_PREFIX}*")
    return [path for path in found if path.name.removeprefix(CHECKPOINT_PREFIX).isdecimal()]


class RunFolder:
    """One run's files. A folder belongs to the configuration that began it; another one is refused.

    Some things may change between the pieces of a run: `FREE_KEYS` of its configuration, `run` above all, which are
    about how, not what; and, before a learning rate begins to fall, a training's `steps`, because nothing has depended
    on it yet. How many processes share the work is free. The files that the configuration names are to stay what they
    were as soon as something has been made of them.
    """

    def __init__(self, config: StageConfig, *, stage: str) -> None:
        self.path = Path(config.run.out)
        self._free_keys = config.FREE_KEYS
        self._world = DistContext.current()
        # Every process checks before one of them writes, so that a refusal ends all with the same sentence.
        claim = {"stage": stage, **as_plain(config)}
        self._check(claim, config)
        inputs = self._checked_inputs(self._identity(as_plain(config)))
        self._world.meet()
        if self._world.is_main:
            self.path.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self.path / PARTIAL_NAME, ignore_errors=True)
            self._remove_older()
            with replacing(self.path / CONFIG_NAME) as temporary:
                OmegaConf.save(OmegaConf.create(claim), temporary)
            with replacing(self.path / INPUTS_NAME) as temporary:
                temporary.write_text(json.dumps(inputs, indent=2), encoding="utf-8")
        self._world.meet()
        # Asked of the disk only here: one that machines share may show a checkpoint to some before others, and all
        # processes are to write the next one, or none.
        self._saved_step = self.step if self.checkpoint_path else None

    @property
    def checkpoint_path(self) -> Path | None:
        """The newest complete checkpoint, or None for a run that has none yet."""
        return newest_checkpoint(self.path)

    @property
    def step(self) -> int:
        """Steps taken before that checkpoint; 0 without one."""
        path = self.checkpoint_path
        return int(path.name.removeprefix(CHECKPOINT_PREFIX)) if path else 0

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Put the checkpoint of a step in the place of the last one, which is kept until the new one is complete.

        All processes call this, with a state as `write_checkpoint` takes it.

        Raises:
            CheckpointError: it could not be written; the last one is as it was.
        """
        if step == self._saved_step:
            return
        last = self.checkpoint_path
        partial = self.path / PARTIAL_NAME
        try:
            write_checkpoint(partial, state)
        except RunCheckpointError as problem:
            shutil.rmtree(partial, ignore_errors=True)
            kept = f"{last} is as it was; " if last else ""
            raise RunCheckpointError(
                f"the checkpoint of step {step} could not be written to {self.path} ({problem}). {kept}"
                "see whether the disk is full, then give the same command again."
            ) from problem
        if self._world.is_main:
            os.replace(partial, self.path / f"{CHECKPOINT_PREFIX}{step:08d}")
            _flush(self.path)
            self._remove_older()
        self._world.meet()
        self._saved_step = step

    def load(self, like: Like) -> dict[str, Any] | None:
        """The state in the checkpoint, its tensors as `like` wants them, or None for a run that has none yet."""
        path = self.checkpoint_path
        return None if path is None else read_checkpoint(path, like)

    def _check(self, claim: dict[str, Any], config: StageConfig) -> None:
        if (self.path / FORMER_CHECKPOINT_NAME).is_file():
            raise ConfigError(
                f"{self.path} holds a run of an earlier version, whose {FORMER_CHECKPOINT_NAME} this one cannot go on "
                "from. Choose another run.out, or finish that run with the version that began it."
            )
        path = self.path / CONFIG_NAME
        if not path.is_file():
            return
        found = OmegaConf.to_container(OmegaConf.load(path))
        changed = sorted(_differences(self._identity(found), self._identity(claim)))
        if changed == ["steps"] and self._steps_are_free(config, found["steps"]):
            changed = []
        if changed:
            raise ConfigError(
                f"{self.path} holds a run of another configuration; these keys differ: {', '.join(changed)}. "
                "Choose another run.out, or go back to the configuration in its config.yaml."
            )

    def _checked_inputs(self, config: dict[str, Any]) -> dict[str, str]:
        """Fingerprints of the files that a plain configuration names, and of those that the run had and that are gone.

        Raises:
            ConfigError: one is not what it was, and the run has made something of it.
        """
        files, path = named_files(config), self.path / INPUTS_NAME
        inputs = {key: file_fingerprint(file) for key, file in files.items()}
        # A checkpoint, or shards of data.
        has_begun = self.checkpoint_path is not None or any(self.path.glob("*.safetensors"))
        former: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if has_begun and path.is_file() else {}
        for key, fingerprint in inputs.items():
            if former.get(key, fingerprint) != fingerprint:
                raise ConfigError(
                    f"{files[key]}, which {key} names, is not the file that the run in {self.path} has worked with so "
                    "far. Put the former one back, or choose another run.out."
                )
        return former | inputs

    def _identity(self, config: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in config.items() if key not in self._free_keys}

    def _steps_are_free(self, config: StageConfig, found: int) -> bool:
        """Return whether a run with `found` steps, and like `config` otherwise, may have the steps of `config`."""
        if not isinstance(config, TrainConfig):
            return False
        return all(self.step <= plan.steps_before_decay for plan in (config, replace(config, steps=found)))

    def _remove_older(self) -> None:
        """Remove every checkpoint but the newest: a process that was killed at that may have left some."""
        newest = self.checkpoint_path
        for path in _checkpoints(self.path):
            if path != newest:
                shutil.rmtree(path)


def _flush(folder: Path) -> None:
    """Have the names in a folder reach the disk; on Windows folders cannot be opened for that."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _differences(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys whose values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
    elif old != new:
        yield prefix


AVERAGED, RAW = "averaged", "raw"
WEIGHTS = (AVERAGED, RAW)


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedRun:
    """A run, finished or not, as its folder tells it. Nothing is written there: the run may still be going on."""

    folder: Path
    stage: str
    config: TrainConfig
    step: int
    """Steps taken before the checkpoint."""
    networks: dict[str, dict[str, Any]]
    """State of each trained network by name, as `Trained.state` gave it."""

    def weights(self, network: str, kind: str) -> dict[str, Tensor]:
        """A network's weights by name: AVERAGED over the last steps, or RAW, as the last step left them.

        Raises:
            ConfigError: there is no such network, or no average.
        """
        require(
            network in self.networks,
            f"{self.folder} trains {', '.join(self.networks)}, no {network!r}; write the name of one of them.",
        )
        state = self.networks[network]
        require(
            kind == RAW or bool(state["average"]),
            f"{self.folder} keeps no average of {network} (its optimizer.ema is 0); write weights=raw.",
        )
        return state["weights"] | (state["average"] if kind == AVERAGED else {})


def read_run(path: str) -> FinishedRun:
    """Read a run's configuration and its newest checkpoint, on the CPU.

    Raises:
        ConfigError: the folder holds no run, or one without a checkpoint, or of another version.
    """
    folder = Path(path)
    told = folder / CONFIG_NAME
    require(told.is_file(), f"{folder} holds no run ({CONFIG_NAME} is missing); name the folder of one, its run.out.")
    entries = OmegaConf.load(told)
    checkpoint = newest_checkpoint(folder)
    require(checkpoint is not None, f"{folder} holds no checkpoint yet; train first, or wait until it saves one.")
    try:
        stage = entries.pop("stage")
        kind = importlib.import_module(f"..stages.{stage}", package=__package__).CONFIG
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), entries))
        state = read_checkpoint(checkpoint, lambda path, shape, dtype: torch.empty(shape, dtype=dtype))
    except (OmegaConfBaseException, ModuleNotFoundError, RunCheckpointError) as error:
        raise ConfigError(f"{folder} holds a run that cannot be read here: {error}") from error
    return FinishedRun(
        folder=folder, stage=stage, config=config, step=state["step"], networks=state.get("networks", {})
    )
