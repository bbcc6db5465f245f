"""The student as every stage that trains one names and writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.wan.transformer import WanTransformer

from .export import write_weights


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
        """As the header of the weights says it."""
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
