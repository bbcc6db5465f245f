"""The folder of a run: whose it is, its checkpoint, and writing both so that a killed process loses nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sfpp_core.files import replacing

from .checkpoint import CheckpointError, Like, read_checkpoint, write_checkpoint
from .config import ConfigError, StageConfig, as_plain
from .parallel import World

CONFIG_NAME = "config.yaml"
CHECKPOINT_PREFIX = "checkpoint-"
"""Of a checkpoint's folder; the step follows."""
PARTIAL_NAME = ".checkpoint.partial"
"""A checkpoint that is being written; under its final name it is complete."""
FORMER_CHECKPOINT_NAME = "checkpoint.pt"


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None for one that has none yet."""
    return max(folder.glob(f"{CHECKPOINT_PREFIX}*"), default=None)


class RunFolder:
    """One run's files. A folder belongs to the configuration that began it; another one is refused.

    Two things may change between the pieces of a run: `FREE_KEYS` of its configuration, `run` above all, which are
    about how, not what; and, before the learning rate begins to fall, `steps`, because nothing has depended on it yet.
    How many processes share the work is free.
    """

    def __init__(self, config: StageConfig, *, stage: str) -> None:
        self.path = Path(config.run.out)
        self._free_keys = config.FREE_KEYS
        self._world = World.current()
        # Every process checks before one of them writes, so that a refusal ends all with the same sentence.
        claim = {"stage": stage, **as_plain(config)}
        self._check(claim)
        self._world.meet()
        if self._world.is_main:
            self.path.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self.path / PARTIAL_NAME, ignore_errors=True)
            with replacing(self.path / CONFIG_NAME) as temporary:
                OmegaConf.save(OmegaConf.create(claim), temporary)
        self._world.meet()

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
        last = self.checkpoint_path
        if last is not None and step == self.step:
            return
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
            if last is not None:
                shutil.rmtree(last)
        self._world.meet()

    def load(self, like: Like) -> dict[str, Any] | None:
        """The state in the checkpoint, its tensors as `like` wants them, or None for a run that has none yet."""
        path = self.checkpoint_path
        return None if path is None else read_checkpoint(path, like)

    def _check(self, claim: dict[str, Any]) -> None:
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
        if changed == ["steps"] and self._steps_are_free(found, claim):
            changed = []
        if changed:
            raise ConfigError(
                f"{self.path} holds a run of another configuration; these keys differ: {', '.join(changed)}. "
                "Choose another run.out, or go back to the configuration in its config.yaml."
            )

    def _identity(self, config: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in config.items() if key not in self._free_keys}

    def _steps_are_free(self, found: dict[str, Any], claim: dict[str, Any]) -> bool:
        return all(self.step <= plan["steps"] - plan["optimizer"]["decay"] for plan in (found, claim))


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
