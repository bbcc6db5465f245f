"""The folder of a run: whose it is, its checkpoint, and writing both so that a killed process loses nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sfpp_core.files import replacing

from .checkpoint import CheckpointError, Like, read_checkpoint, write_checkpoint
from .config import ConfigError, StageConfig, TrainConfig, as_plain
from .inputs import file_fingerprint, named_files
from .parallel import World

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
    """What lies there under the name of a step; copies that somebody made under other names are not among them."""
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
        self._world = World.current()
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
        except CheckpointError as problem:
            shutil.rmtree(partial, ignore_errors=True)
            kept = f"{last} is as it was; " if last else ""
            raise CheckpointError(
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
        """Whether a run that was to have `found` steps, and is like `config` otherwise, may have those of `config`."""
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
