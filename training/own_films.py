"""What the stages share in which a student learns from films of its own."""

from __future__ import annotations

from dataclasses import dataclass

from sfpp_core.wan.config import WAN21

from .conditioning import ConditioningConfig
from .config import TrainConfig, core_refusals
from .student import StudentConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnFilmsConfig(TrainConfig):
    """Whose films, of what, and how large."""

    init: str
    """Checkpoint that the student starts from, of an earlier stage or published."""
    vae: str
    """File of the autoencoder."""
    conditioning: ConditioningConfig
    student: StudentConfig
    """How the student rolls out."""
    width: int = 64
    """Of the films, in pixels."""
    height: int = 64

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        with core_refusals():
            self.student.rollout()
            WAN21.latent_size(self.height, self.width)

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width in latent cells."""
        return WAN21.latent_size(self.height, self.width)
