"""Reading the folder of a run that another command trained: what it was told, and what it has learnt so far."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from .checkpoint import CheckpointError, read_checkpoint
from .config import ConfigError, TrainConfig, require
from .run_folder import CONFIG_NAME, newest_checkpoint

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
        kind = importlib.import_module(f".stages.{stage}", package=__package__).Config
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), entries))
        state = read_checkpoint(checkpoint, lambda path, shape, dtype: torch.empty(shape, dtype=dtype))
    except (OmegaConfBaseException, ModuleNotFoundError, CheckpointError) as error:
        raise ConfigError(f"{folder} holds a run that cannot be read here: {error}") from error
    return FinishedRun(
        folder=folder, stage=stage, config=config, step=state["step"], networks=state.get("networks", {})
    )
