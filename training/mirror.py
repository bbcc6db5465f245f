"""A copy of a run's board at Weights & Biases."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from .config import ConfigError, RunConfig


def require_mirror(run: RunConfig) -> None:
    """Raise ConfigError if a run's board is to be copied and what copies it is not installed."""
    if run.wandb is not None:
        _wandb()


def mirror(project: str, folder: Path) -> None:
    """Copy what a TensorBoard in `folder` is told to Weights & Biases as well, as one run named after the folder's."""
    # It would write its own files to the system's temporary folder if there were no such one.
    folder.mkdir(parents=True, exist_ok=True)
    # A run that goes on after a stop is the same run there too.
    name = folder.resolve().parent.name
    _wandb().init(project=project, name=name, id=name, resume="allow", dir=folder, sync_tensorboard=True)


def _wandb() -> ModuleType:
    try:
        import wandb
    except ImportError as error:
        raise ConfigError(
            "run.wandb names a project, but Weights & Biases is not installed; pip install wandb, or write "
            "run.wandb=null."
        ) from error
    return wandb
