"""Configuration of a Self-Forcing run, and what all stages share that train on the student's own rollouts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import count
from typing import ClassVar

from sfpp_core.wan.config import WAN21

from ..config import OptimizerConfig, TrainConfig, core_refusals, require
from ..data.prompt_embeds import ConditioningConfig
from ..models.export import StudentConfig
from .dmd import DMDConfig
from .rollouts import shared_frames, windows_in_video
from .windows import WindowConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnVideosConfig(TrainConfig):
    """Whose videos, of what, and how large."""

    init: str
    """Checkpoint that the student starts from, of an earlier stage or published."""
    vae: str
    """File of the autoencoder."""
    conditioning: ConditioningConfig
    student: StudentConfig
    """How the student rolls out."""
    width: int = 64
    """Of the videos, in pixels."""
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


HISTORIES = ("restart", "streaming")
READINGS = ("chain", "renoised")
GRADIENT_STEPS = ("last", "random", "all")
CRITIC_WINDOWS = ("shared", "fresh")


def _require_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    require(value in known, f"{name} is {value!r}; it must be one of {', '.join(known)}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class CriticConfig:
    """The settings of the critic, the score of the student's own clips."""

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
    learns_first: bool = False
    """Whether it learns the student's windows before it judges them, instead of after. All windows of a step are from
    the same time in the video; a critic that was last trained on another time is biased towards that time's exposure,
    which brightens beginnings and darkens ends (docs/proof.md). Parts of a batch then hold their caches at once."""

    def __post_init__(self) -> None:
        require(self.updates >= 1, f"critic.updates is {self.updates}; it must be at least 1, e.g. 5.")
        require(self.warmup_updates >= 0, f"critic.warmup_updates is {self.warmup_updates}; it must be 0 or more.")
        _require_one_of("critic.windows", self.windows, CRITIC_WINDOWS)
        require(
            not self.learns_first or self.windows == "shared",
            "critic.learns_first is on and critic.windows fresh: there is nothing that it could learn before it judges "
            "it. Write critic.windows=shared.",
        )

    def check_updates(self, steps: int) -> None:
        """Raise ConfigError if the learning rate takes longer to rise and fall than a run of `steps` steps lasts."""
        edges, updates = self.optimizer.warmup + self.optimizer.decay, self.updates_in(steps)
        require(
            edges <= updates,
            f"critic.optimizer.warmup + critic.optimizer.decay is {edges}, but the critic is updated {updates} times; "
            "shorten them or train longer.",
        )

    def updates_in(self, steps: int) -> int:
        """Updates of a whole run."""
        return self.warmup_updates + steps * self.updates


@dataclass(frozen=True, kw_only=True, slots=True)
class SfppStageConfig(OwnVideosConfig):
    """The sfpp stage; `optimizer` is the student's. The autoencoder makes windows from mid-video clips of their own."""

    FREE_KEYS: ClassVar[frozenset[str]] = OwnVideosConfig.FREE_KEYS | {"watch_frames"}

    teacher: str
    """Checkpoint of the bidirectional teacher, which stays as it is."""
    critic: CriticConfig
    window: WindowConfig
    dmd: DMDConfig = field(default_factory=DMDConfig)
    batch: int = 8
    """Videos a step."""
    history: str = "restart"
    """restart rolls new videos to a window that was drawn anywhere in them, as the paper does; streaming goes on with
    the videos of the step before, many times cheaper in long ones."""
    reading: str = "chain"
    """Of backward noise initialisation: chain takes the gradient through the denoising step that made a chunk; renoised
    noises the finished window again and takes it through one more step."""
    gradient_step: str = "last"
    """Which of the denoising steps that is: the last, as in Self-Forcing++, a random one, as in Self-Forcing, or all of
    them, one through the other, which takes the memory and time of as many. Not all in the renoised reading."""
    watch_frames: int = 84
    """Latent frames of sample videos; a resumed run may change it."""

    def __post_init__(self) -> None:
        OwnVideosConfig.__post_init__(self)
        chunk = self.student.chunk
        require(
            self.window.frames >= chunk,
            f"window.frames is {self.window.frames}, less than a chunk, {chunk}; write 21, the teacher's length.",
        )
        self.window.check_chunk(chunk)
        for name in ("batch", "watch_frames"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1.")
        _require_one_of("history", self.history, HISTORIES)
        _require_one_of("reading", self.reading, READINGS)
        _require_one_of("gradient_step", self.gradient_step, GRADIENT_STEPS)
        require(
            self.reading == "chain" or self.gradient_step != "all",
            "gradient_step is all, but the renoised reading takes one more step and no other; write reading=chain.",
        )
        self.critic.check_updates(self.steps)
        if self.history == "streaming":
            self._check_streaming(chunk)

    @property
    def steps_before_decay(self) -> int:
        """See TrainConfig; the student's rate or the critic's, whichever begins to fall first."""
        critic = self.critic.optimizer.steps_before_decay(self.steps, updates_a_step=self.critic.updates)
        return min(self.optimizer.steps_before_decay(self.steps), critic)

    def _check_streaming(self, chunk: int) -> None:
        require(
            self.reading != "chain" or self.gradient_step != "random",
            "history is streaming and gradient_step random, so videos would go on from chunks that were not denoised "
            "to the end; write gradient_step=last or reading=renoised.",
        )
        shared = shared_frames(self.window, chunk)
        require(
            shared < self.window.frames,
            f"window.masked_frames is {self.window.masked_frames}, which leaves nothing of a window of "
            f"{self.window.frames} frames in chunks of {chunk}; write {self.window.frames - chunk} or less.",
        )
        frames, rollout = self.window.frames, self.window.rollout_frames
        second = 2 * frames - shared
        require(
            rollout == frames or rollout >= second,
            f"window.rollout_frames is {rollout}, but the second window of a video that goes on ends with frame "
            f"{second}, so only beginnings would be judged; write {second} or more, or {frames} for Self-Forcing.",
        )
        windows, period = windows_in_video(self.window, chunk), 1 + self.critic.updates
        coprime = next(number for number in count(windows) if math.gcd(number, period) == 1)
        longer = self.window.frames + (coprime - 1) * (self.window.frames - shared)
        require(
            self.critic.windows == "shared" or coprime == windows,
            f"critic.windows is fresh and a video has {windows} windows, so the student would get one in {period} of "
            f"them, always the same ones; write critic.windows=shared, or window.rollout_frames={longer}.",
        )
