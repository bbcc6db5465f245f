"""What a Self-Forcing run is told."""

from __future__ import annotations

from dataclasses import dataclass, field

from sfpp_core.wan.geometry import WAN21

from ..conditioning import ConditioningConfig
from ..config import OptimizerConfig, TrainConfig, require
from ..dmd import DMDConfig
from ..student import StudentConfig
from ..windows import WindowConfig

HISTORIES = ("restart", "streaming")
READINGS = ("chain", "renoised")
GRADIENT_STEPS = ("last", "random")
CRITIC_WINDOWS = ("shared", "fresh")


def _require_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    require(value in known, f"{name} is {value!r}; it must be one of {', '.join(known)}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class CriticConfig:
    """How the critic, the score of the student's own clips, keeps up with the student."""

    optimizer: OptimizerConfig
    init: str | None = None
    """Checkpoint that it starts from; the teacher's by default."""
    updates: int = 5
    """Updates after each of the student's."""
    warmup_updates: int = 0
    """Updates before the student's first."""
    windows: str = "shared"
    """fresh rolls a window for every update, as Self-Forcing does; shared judges the student's window in all of them,
    at other noise, for a sixth of the rollouts."""

    def __post_init__(self) -> None:
        require(self.updates >= 1, f"critic.updates is {self.updates}; it must be at least 1, e.g. 5.")
        require(self.warmup_updates >= 0, f"critic.warmup_updates is {self.warmup_updates}; it must be 0 or more.")
        _require_one_of("critic.windows", self.windows, CRITIC_WINDOWS)

    def updates_in(self, steps: int) -> int:
        """Updates of a whole run."""
        return self.warmup_updates + steps * self.updates


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(TrainConfig):
    """The sfpp stage; `optimizer` is the student's."""

    init: str
    """Checkpoint that the student starts from, of causal_init or published."""
    teacher: str
    """Checkpoint of the bidirectional teacher, which stays as it is."""
    vae: str
    """File of the autoencoder: for the first frame of windows from mid-film, and for sample videos."""
    conditioning: ConditioningConfig
    critic: CriticConfig
    window: WindowConfig
    student: StudentConfig
    """How the student rolls out."""
    dmd: DMDConfig = field(default_factory=DMDConfig)
    batch: int = 8
    """Films a step."""
    width: int = 64
    """Of the films, in pixels."""
    height: int = 64
    history: str = "restart"
    """restart rolls new films to a window that was drawn anywhere in them, as the paper does; streaming goes on with
    the films of the step before, many times cheaper in long ones."""
    reading: str = "chain"
    """Of backward noise initialisation: chain takes the gradient through the denoising step that made a chunk; renoised
    noises the finished window again and takes it through one more step."""
    gradient_step: str = "last"
    """Which of the denoising steps that is: the last, as in Self-Forcing++, or a random one, as in Self-Forcing."""
    watch_frames: int = 84
    """Latent frames of sample videos."""

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        chunk = self.student.rollout().chunk
        self.window.check_chunk(chunk)
        require(
            self.window.frames >= chunk,
            f"window.frames is {self.window.frames}, less than a chunk, {chunk}; write 21, the teacher's length.",
        )
        for name in ("batch", "watch_frames"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1.")
        WAN21.latent_size(self.height, self.width)
        _require_one_of("history", self.history, HISTORIES)
        _require_one_of("reading", self.reading, READINGS)
        _require_one_of("gradient_step", self.gradient_step, GRADIENT_STEPS)

        require(
            not (self.history == "streaming" and self.reading == "chain" and self.gradient_step == "random"),
            "history is streaming and gradient_step random, so films would go on from chunks that were not denoised to "
            "the end; write gradient_step=last or reading=renoised.",
        )

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width in latent cells."""
        return WAN21.latent_size(self.height, self.width)
