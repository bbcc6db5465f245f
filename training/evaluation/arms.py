"""What is compared: students and how each is rolled out, the teacher, and the truth itself."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sfpp_core.checkpoint import CheckpointError, open_checkpoint
from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.flow import NUM_TIMESTEPS
from sfpp_core.tiny.family import weights_path

from ..config import ConfigError, require

STUDENT, TEACHER, TRUTH = "student", "teacher", "truth"
KINDS = (STUDENT, TEACHER, TRUTH)


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmConfig:
    """One thing that makes films. What is None stays as the weights were trained for."""

    name: str
    """What tables and plots call it; unique, of letters, digits, `_`, `-` and `+`."""
    kind: str = STUDENT
    """student: rolled out to any length. teacher: one clip, judged at the lengths that it reaches. truth: rendered
    scenes of the prompt, for prompts of the procedural scenes only."""
    weights: str | None = None
    """File of the student or teacher; None for the built-in family's own."""
    window: int | None = None
    """Latent frames that attention may see."""
    sink: int | None = None
    """First latent frames that stay in the cache for ever."""
    context_noise: float | None = None
    """Timestep (0..1000) that a finished chunk is written to the cache with, as the network is told it."""
    cache_noise: float = 0.0
    """Timestep (0..1000) up to which finished chunks are really noised on their way into the cache; told as well."""
    overlap: int = 0
    """Latent frames that a window begins with after the cache was dropped, as CausVid goes on; 0 rolls the cache."""
    autoencoded: bool = False
    """Truth through the autoencoder: what a generator that makes no mistake would show."""
    light_crossing: float | None = None
    """Seconds in which the truth's light goes from one end of its range to the other and back again, for ever: films
    whose light changes and nothing else, to see what a judge makes of that. None: light stays."""

    def __post_init__(self) -> None:
        named = self.name.replace("_", "").replace("-", "").replace("+", "").isalnum()
        require(named, f"an arm is called {self.name!r}; use letters, digits, `_`, `-` and `+`: it becomes file names.")
        require(self.kind in KINDS, f"kind of arm {self.name} is {self.kind!r}; it must be one of {', '.join(KINDS)}.")
        rolled = (self.window, self.sink, self.context_noise, self.cache_noise, self.overlap)
        require(
            self.kind == STUDENT or rolled == (None, None, None, 0.0, 0),
            f"arm {self.name} is a {self.kind}; window, sink, context_noise, cache_noise and overlap are a student's.",
        )
        require(
            self.kind == TRUTH or not self.autoencoded,
            f"arm {self.name} is a {self.kind}, whose films are autoencoded anyway; leave that to the truth.",
        )
        require(
            self.kind == TRUTH or self.light_crossing is None,
            f"arm {self.name} is a {self.kind}, whose light is its own; leave light_crossing to the truth.",
        )
        require(
            self.light_crossing is None or self.light_crossing > 0,
            f"light_crossing of arm {self.name} is {self.light_crossing}; seconds above 0, or leave it out.",
        )
        require(
            self.kind != TRUTH or self.weights is None,
            f"arm {self.name} is the truth, which has no weights; leave weights out.",
        )
        require(
            0 <= self.cache_noise < NUM_TIMESTEPS,
            f"cache_noise of arm {self.name} is {self.cache_noise:g}; a timestep from 0 to below {NUM_TIMESTEPS}.",
        )
        require(
            not self.cache_noise or self.context_noise is None,
            f"arm {self.name} sets cache_noise and context_noise; noise in the cache is told as what it is: leave "
            "context_noise out.",
        )
        require(
            self.overlap >= 0, f"overlap of arm {self.name} is {self.overlap}; it counts latent frames, 0 for none."
        )

    @property
    def path(self) -> str:
        """File of the weights."""
        require(self.kind != TRUTH, f"arm {self.name} is the truth, which has no weights.")
        return self.weights or str(weights_path("student" if self.kind == STUDENT else "teacher"))

    def rollout(self) -> RolloutConfig:
        """How the student is rolled out: as its file says, with what this arm changes.

        Raises:
            ConfigError: the file says nothing about it, or the changes cannot work.
        """
        settings = _settings_of(self.path)
        changes = {name: getattr(self, name) for name in ("window", "sink", "context_noise")}
        changes = {name: value for name, value in changes.items() if value is not None}
        if self.overlap:
            # Nothing stays in a cache that is dropped, whatever the student was made for.
            changes.setdefault("sink", 0)
        if self.cache_noise:
            changes["context_noise"] = self.cache_noise
        try:
            settings = replace(settings, **changes)
        except ValueError as error:
            raise ConfigError(f"arm {self.name}: {error}") from error
        if self.overlap:
            self._check_overlap(settings)
        return settings

    def _check_overlap(self, settings: RolloutConfig) -> None:
        chunk, window = settings.chunk, settings.window
        whole = self.overlap % chunk == 0 and window % chunk == 0 and self.overlap < window
        require(
            whole and not settings.sink and not settings.independent_first,
            f"overlap of arm {self.name} is {self.overlap} with window {window}, chunk {chunk}, sink {settings.sink}; "
            "overlap and window must be multiples of the chunk, the overlap the shorter, and there is no sink.",
        )


def _settings_of(path: str) -> RolloutConfig:
    try:
        preset = open_checkpoint(path).preset
    except CheckpointError as error:
        raise ConfigError(str(error)) from error
    if preset is None:
        raise ConfigError(
            f"{path} does not say how its student is sampled; export it with the export stage, which writes that into "
            "the header."
        )
    return preset.rollout
