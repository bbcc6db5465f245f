"""The folder of a run: whose it is, its checkpoint, and writing both so that a killed process loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from sfpp_core.files import replacing

from .config import ConfigError, StageConfig, as_plain

CONFIG_NAME = "config.yaml"
CHECKPOINT_NAME = "checkpoint.pt"


class RunFolder:
    """One run's files. A folder belongs to the configuration that began it; another one is refused.

    Two things may change between the pieces of a run: `run`, which is about how, not what; and, before the learning
    rate begins to fall, `steps`, because nothing has depended on it yet.
    """

    def __init__(self, config: StageConfig, *, stage: str) -> None:
        self.path = Path(config.run.out)
        self.path.mkdir(parents=True, exist_ok=True)
        self._claim({"stage": stage, **as_plain(config)})

    @property
    def checkpoint_path(self) -> Path:
        return self.path / CHECKPOINT_NAME

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint."""
        with replacing(self.checkpoint_path) as path:
            torch.save(state, path)

    def load(self) -> dict[str, Any] | None:
        """The checkpoint, or None for a run that has none yet."""
        if not self.checkpoint_path.is_file():
            return None
        return torch.load(self.checkpoint_path, map_location="cpu", weights_only=True)

    def _claim(self, config: dict[str, Any]) -> None:
        path = self.path / CONFIG_NAME
        if path.is_file():
            found = OmegaConf.to_container(OmegaConf.load(path))
            changed = sorted(_differences(_identity(found), _identity(config)))
            if changed == ["steps"] and self._steps_are_free(found, config):
                changed = []
            if changed:
                raise ConfigError(
                    f"{self.path} holds a run of another configuration; these keys differ: {', '.join(changed)}. "
                    "Choose another run.out, or go back to the configuration in its config.yaml."
                )
        with replacing(path) as temporary:
            OmegaConf.save(OmegaConf.create(config), temporary)

    def _steps_are_free(self, found: dict[str, Any], config: dict[str, Any]) -> bool:
        saved = self.load()
        done = saved["step"] if saved else 0
        return all(done <= plan["steps"] - plan["optimizer"]["decay"] for plan in (found, config))


def _identity(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "run"}


def _differences(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys whose values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
    elif old != new:
        yield prefix
