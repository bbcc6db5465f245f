"""A copy of a run's board at Weights & Biases."""

from __future__ import annotations

import uuid
from pathlib import Path
from types import ModuleType

from sfpp_core.files import replacing

from .config import ConfigError, RunConfig

ID_NAME = "wandb_id.txt"
"""In the board's folder: what makes its run one of its own, whatever other folders are called."""


def require_mirror(run: RunConfig) -> None:
    """Raise ConfigError if a run's board is to be copied and what copies it is not installed."""
    if run.wandb is not None:
        _wandb()


def mirror(project: str, folder: Path) -> None:
    """Copy what a TensorBoard in `folder` is told to Weights & Biases as well, as one run named after the folder's."""
    # It would write its own files to the system's temporary folder if there were no such one.
    folder.mkdir(parents=True, exist_ok=True)
    name = folder.resolve().parent.name
    _wandb().init(project=project, name=name, id=_id(folder), resume="allow", dir=folder, sync_tensorboard=True)


def _id(folder: Path) -> str:
    """Made up once: a run that goes on after a stop is the same run there too."""
    path = folder / ID_NAME
    if not path.is_file():
        with replacing(path) as unfinished:
            unfinished.write_text(uuid.uuid4().hex, encoding="utf-8")
    return path.read_text(encoding="utf-8")


def _wandb() -> ModuleType:
    try:
        import wandb
    except ImportError as error:
        raise ConfigError(
            "run.wandb names a project, but Weights & Biases is not installed; pip install wandb, or write "
            "run.wandb=null."
        ) from error
    return wandb
