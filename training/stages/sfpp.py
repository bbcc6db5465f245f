"""Self-Forcing++: distribution matching on windows of rollouts far longer than the teacher's horizon."""

from __future__ import annotations

from ..engine.loop import train
from ..self_forcing.config import SfppStageConfig
from ..self_forcing.task import SelfForcingTask

CONFIG = SfppStageConfig


def run(config: SfppStageConfig) -> bool:
    """Train; True when finished."""
    return train(SelfForcingTask(config, stage="sfpp"), config, stage="sfpp")
