"""Self-Forcing as published: rollouts of one window, all of it judged."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import require
from ..engine.loop import train
from ..self_forcing import config as self_forcing
from ..self_forcing.task import SelfForcingTask


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfForcingStageConfig(self_forcing.SfppStageConfig):
    """The self_forcing stage: that of sfpp, with a rollout of one window."""

    def __post_init__(self) -> None:
        self_forcing.SfppStageConfig.__post_init__(self)
        window = self.window
        require(
            window.rollout_frames == window.frames,
            f"window.rollout_frames is {window.rollout_frames}, window.frames {window.frames}; Self-Forcing rolls out "
            "one window. Make them equal, or run the sfpp stage.",
        )


CONFIG = SelfForcingStageConfig


def run(config: SelfForcingStageConfig) -> bool:
    """Train; True when finished."""
    return train(SelfForcingTask(config, stage="self_forcing"), config, stage="self_forcing")
