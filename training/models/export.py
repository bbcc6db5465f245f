"""Weights as they are shipped: safetensors with the story of their making in the header."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfpp_core.checkpoint.checkpoint import HEADER_KEY
from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.sealed_file import FORMAT_VERSION, write_sealed
from sfpp_core.wan.transformer import WanTransformer

from ..config import TrainConfig, as_plain
from ..engine.distributed import DistContext, whole
from ..engine.run_folder import PROSE


def training_record(config: TrainConfig, *, stage: str, steps: int) -> dict[str, Any]:
    """Stage, steps taken so far, seed and configuration, without what belongs to the machine that ran it.

    Files and folders are recorded by name: where they lay is nobody's business. Texts that name none stay whole.
    """
    plain = as_plain(config)
    plain.pop("run")
    return {"stage": stage, "steps": steps, "seed": config.seed, "config": _without_folders(plain)}


def _without_folders(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _without_folders(entry, name) for name, entry in value.items()}
    if isinstance(value, list):
        return [_without_folders(entry, key) for entry in value]
    is_path = isinstance(value, str) and "/" in value and key not in PROSE
    return Path(value).name if is_path else value


def write_weights(
    path: Path, weights: Mapping[str, Tensor], header: Mapping[str, Any], *, dtype: torch.dtype = torch.float32
) -> None:
    """Write weights in `dtype`, `header` as JSON under the metadata key `sfpp`; whole or not at all.

    Every process calls this: sharded weights are gathered, and the main process writes.
    """
    stored = {name: whole(weight.detach().to(dtype)).cpu().contiguous().clone() for name, weight in weights.items()}
    if not DistContext.current().is_main:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_sealed(path, stored, HEADER_KEY, {**header, "version": FORMAT_VERSION})


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentConfig:
    """The rollout that the student is trained for; fields as in `RolloutConfig`."""

    chunk: int = 3
    window: int = 21
    sink: int = 0
    steps: list[float]
    first_chunk_steps: list[float] = field(default_factory=list)
    shift: float = 5.0
    context_noise: float = 0.0

    def rollout(self) -> RolloutConfig:
        """The core's own configuration, which also checks the values."""
        return RolloutConfig.from_json(self.header())

    def header(self) -> dict[str, object]:
        """Return the settings as the header of the weights has them."""
        return asdict(self)


def write_student(
    path: Path,
    network: WanTransformer,
    student: StudentConfig,
    record: Mapping[str, Any],
    *,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a student's weights with what a loader has to know of it; record: see `training_record`."""
    header = {"kind": "student", "model": asdict(network.config), "rollout": student.header(), "training": record}
    write_weights(path, network.state_dict(), header, dtype=dtype)
