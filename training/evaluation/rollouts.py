"""Generators of the videos that are compared: students in several ways of going on, the teacher, the truth.

A video's noise depends on its own seed alone, so it is the same video in whatever batch it is made, up to the rounding
of batched kernels; alone it is what the pack's sampler makes of that seed.

Axes: B video, C latent channel, T latent frame, F frame, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from sfpp_core.checkpoint import CheckpointError, open_checkpoint
from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.flow import NUM_TIMESTEPS, SeededNoise, add_noise, generator_for
from sfpp_core.rollout.rollout import PrefillStep, Rollout
from sfpp_core.rollout.state import RolloutState
from sfpp_core.tiny.family import weights_path
from sfpp_core.wan.config import WAN21, to_model_space
from sfpp_core.wan.transformer import WanTransformer
from sfpp_core.wan.vae import WanVAE

from ..config import ConfigError, require
from ..data.prompt_embeds import Conditioning
from ..engine.seeding import VideoNoise
from ..models.open import check_transformer, fingerprint, open_transformer
from ..models.sampling import UNSAVED, VideoDecoder, sample_teacher
from .figures import END_LATENT_FRAMES
from .results import VideoKey, hash_of_text
from .truth import attributes_in, autoencoded, check_square, true_scene, true_videos, videos_of_wandering_light

CONTEXT_STEP = -1
"""In the place of a denoising step: the noise of a chunk on its way into the cache."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cast:
    """Videos that are made together."""

    text: Tensor
    """[B, L, text_dim], on the device of the networks."""
    seeds: tuple[int, ...]
    """One a video."""
    latent_size: tuple[int, int]
    """Height and width in latent cells."""
    latent_frames: int
    """What is needed of each video; a whole number of chunks may be more."""


class NoisyPast(Rollout):
    """A rollout that sees its past through noise: a chunk enters the cache as (1 - s) x0 + s eps, told s.

    s is the settings' context noise. Self-Forcing++ tries this against drift (arXiv 2510.02283, ablations): what the
    student does not see exactly it cannot copy exactly.
    """

    def _commit(self, encoding: PrefillStep, *, given: bool) -> float:
        sigma = 0.0 if given else self.state.config.context_noise / NUM_TIMESTEPS
        chunk = encoding.chunk
        noise = self._noise(self._cache.num_frames, CONTEXT_STEP, tuple(chunk.latents.shape))
        noised = replace(chunk, latents=add_noise(chunk.latents, noise, sigma))
        return super()._commit(replace(encoding, chunk=noised), given=given)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Student:
    """A network and the way it goes on."""

    network: WanTransformer
    vae: WanVAE
    settings: RolloutConfig
    dtype: torch.dtype = torch.float32
    """What the network is called and remembers in."""
    noisy_past: bool = False
    """Whether the context noise is really added."""
    overlap: int = 0
    """Latent frames that are kept when the cache is dropped; 0 rolls the cache."""

    def video(self, cast: Cast) -> Iterator[Tensor]:
        """The pictures of the videos in order, pieces of B 3 F H W in [-1, 1]; more than asked for by part of a chunk.

        Memory grows by the latents alone: 4 kB a video and latent frame at 64x64, 400 kB at 832x480.
        """
        return self._restarted(cast) if self.overlap else self._rolled(cast)

    def _rolled(self, cast: Cast) -> Iterator[Tensor]:
        """With the rolling cache, as the pack's sampler goes on."""
        decoder = VideoDecoder(self.vae)
        rollout = self._rollout(cast, self._empty(cast), VideoNoise(cast.seeds))
        for chunk in rollout.run(self.settings.chunks_for(cast.latent_frames)):
            yield decoder.push(chunk.latents)

    def _restarted(self, cast: Cast) -> Iterator[Tensor]:
        """Window after window, the last frames of one being the start of the next (CausVid, arXiv 2412.07772).

        Wan's first latent frame is a single picture, so the frame that the overlap begins with is decoded and encoded
        as one; the frames after it stay the latents that they are, as in CausVid's published long rollouts. The video
        shows each picture once, as its first window has it.
        """
        start, shown = None, 0
        made = 0
        while made < cast.latent_frames:
            state = self._empty(cast) if start is None else self._empty(cast).with_given(start, cast.text)
            # No two windows may share noise, and no window has more chunks than frames.
            rollout = self._rollout(cast, state, VideoNoise(cast.seeds, first_chunk=made))
            for _ in rollout.run((self.settings.window - state.num_frames) // self.settings.chunk):
                pass
            made += self.settings.window - state.num_frames
            latents = rollout.state.latents.to(cast.text.device)
            pictures = VideoDecoder(self.vae).push(latents)
            yield pictures[:, :, shown:]
            shown = WAN21.pixel_frames(self.overlap)
            first = pictures[:, :, pictures.shape[2] - shown].unsqueeze(2)
            image = to_model_space(self.vae.encode(first).float())
            start = torch.cat([image, latents[:, :, latents.shape[2] - self.overlap + 1 :]], dim=2)

    def _rollout(self, cast: Cast, state: RolloutState, noise: VideoNoise) -> Rollout:
        kind = NoisyPast if self.noisy_past else Rollout
        return kind(self.network, state, cast.text, device=cast.text.device, dtype=self.dtype, noise=noise)

    def _empty(self, cast: Cast) -> RolloutState:
        shape = (len(cast.seeds), self.network.config.in_channels, *cast.latent_size)
        return RolloutState(config=self.settings, seed=cast.seeds[0], model_id=UNSAVED, shape=shape)


STUDENT, TEACHER, TRUTH = "student", "teacher", "truth"
KINDS = (STUDENT, TEACHER, TRUTH)


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmConfig:
    """One thing that makes videos. What is None stays as the weights were trained for."""

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
    """Seconds in which the truth's light goes from one end of its range to the other and back again, for ever: videos
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
            f"arm {self.name} is a {self.kind}, whose videos are autoencoded anyway; leave that to the truth.",
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
        """Return how the student is rolled out: as its file says, with what this arm changes.

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


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerConfig:
    """The teacher's sampler."""

    frames: int = END_LATENT_FRAMES
    """Latent frames of a clip, at least 21: 5 s are judged at a time."""
    steps: int = 30
    shift: float = 4.0
    guidance: float = 3.0
    """Usual form: uncond + guidance * (cond - uncond)."""

    def __post_init__(self) -> None:
        least = END_LATENT_FRAMES
        require(self.frames >= least, f"teacher.frames is {self.frames}; it must be at least {least}.")
        require(self.steps >= 1, f"teacher.steps is {self.steps}; it must be at least 1.")
        require(self.shift > 0, f"teacher.shift is {self.shift}; it must be above 0, e.g. 4.")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EvalContext:
    """The parts that all arms share."""

    conditioning: Conditioning
    vae: WanVAE
    sampler: SamplerConfig
    device: torch.device
    dtype: torch.dtype
    """What networks compute in."""
    seed: int
    height: int
    """In pixels."""
    width: int

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width in latent cells."""
        return WAN21.latent_size(self.height, self.width)

    @property
    def text_dim(self) -> int:
        """Width of the texts."""
        return self.conditioning.negative(1).shape[-1]

    def video_seed(self, key: VideoKey) -> int:
        """Return the same for a video in every arm, so that differences between arms are paired."""
        return int(torch.randint(2**31, (), generator=generator_for(self.seed, "film", key.prompt, key.take)))

    def cast(self, keys: Sequence[VideoKey], latent_frames: int) -> Cast:
        """Videos to be made together."""
        return Cast(
            text=self.conditioning.text([key.prompt for key in keys]).to(self.device),
            seeds=tuple(self.video_seed(key) for key in keys),
            latent_size=self.latent_size,
            latent_frames=latent_frames,
        )


class VideoMaker(Protocol):
    """Makes videos of an arm."""

    identity: dict[str, Any]
    """What decides the videos besides prompt, seed and size; JSON."""
    reach: int | None
    """Most latent frames that it can make; None for any number."""

    def video(self, keys: Sequence[VideoKey], latent_frames: int) -> Iterator[Tensor]:
        """The pictures of videos in order, pieces of B 3 F H W in [-1, 1], `latent_frames` or more in all."""
        ...


def check_arm(arm: ArmConfig, context: EvalContext, *, prompts: int) -> None:
    """Find out whether an arm can make videos of the first `prompts`, with its weights still in their file.

    Raises:
        ConfigError: its weights are missing, another model's, or cannot be rolled out so; or its prompts or pictures
            are none of procedural scenes.
    """
    if arm.kind == TRUTH:
        check_square(context.height, context.width)
        for prompt in context.conditioning.prompts[:prompts]:
            attributes_in(prompt)
        return
    check_transformer(arm.path, key=f"arm {arm.name}", kind=arm.kind, text_dim=context.text_dim)
    if arm.kind == STUDENT:
        arm.rollout()


def open_maker(arm: ArmConfig, context: EvalContext) -> VideoMaker:
    """The maker of an arm's videos.

    Raises:
        ConfigError: its weights are missing, another model's, or cannot be rolled out so.
    """
    if arm.kind == STUDENT:
        return StudentMaker(arm, context)
    return TruthMaker(arm, context) if arm.kind != TEACHER else TeacherMaker(arm, context)


class StudentMaker:
    """A causal student, rolled out."""

    reach = None

    def __init__(self, arm: ArmConfig, context: EvalContext) -> None:
        settings: RolloutConfig = arm.rollout()
        network = _open_network(arm, context)
        self._context = context
        self._student = Student(
            network=network,
            vae=context.vae,
            settings=settings,
            dtype=context.dtype,
            noisy_past=arm.cache_noise > 0,
            overlap=arm.overlap,
        )
        self.identity = {
            "weights": fingerprint(network),
            "rollout": asdict(settings),
            "cache_noise": arm.cache_noise,
            "overlap": arm.overlap,
        }

    def video(self, keys: Sequence[VideoKey], latent_frames: int) -> Iterator[Tensor]:
        """See VideoMaker."""
        return self._student.video(self._context.cast(keys, latent_frames))


class TeacherMaker:
    """The bidirectional teacher: one clip of its horizon."""

    def __init__(self, arm: ArmConfig, context: EvalContext) -> None:
        self._context, self._sampler = context, context.sampler
        self._network = _open_network(arm, context)
        self.reach = self._sampler.frames
        self.identity = {
            "weights": fingerprint(self._network),
            "sampler": asdict(self._sampler),
            "negative": hash_of_text(context.conditioning.negative(1)),
        }

    def video(self, keys: Sequence[VideoKey], latent_frames: int) -> Iterator[Tensor]:
        """See VideoMaker; a clip is one piece."""
        cast, sampler = self._context.cast(keys, latent_frames), self._sampler
        shape = (1, self._network.config.in_channels, sampler.frames, *cast.latent_size)
        noise = torch.cat([SeededNoise(seed)(0, 0, shape) for seed in cast.seeds])
        negative = self._context.conditioning.negative(len(keys)).to(self._context.device)
        latents = sample_teacher(
            self._network,
            cast.text,
            negative,
            noise,
            steps=sampler.steps,
            shift=sampler.shift,
            guidance=sampler.guidance,
        )
        yield VideoDecoder(self._context.vae).push(latents)


class TruthMaker:
    """Rendered scenes of the prompts: the same ones through the autoencoder or not."""

    reach = None

    def __init__(self, arm: ArmConfig, context: EvalContext) -> None:
        check_square(context.height, context.width)
        self._context, self._arm = context, arm
        self.identity = {"truth": "scenes", "autoencoded": arm.autoencoded}
        if arm.light_crossing is not None:
            self.identity["light_crossing"] = arm.light_crossing

    def video(self, keys: Sequence[VideoKey], latent_frames: int) -> Iterator[Tensor]:
        """See VideoMaker."""
        prompts, seed = self._context.conditioning.prompts, self._context.seed
        scenes = [true_scene(attributes_in(prompts[key.prompt]), seed, key.prompt, "film", key.take) for key in keys]
        frames, size = WAN21.pixel_frames(latent_frames), self._context.height
        if self._arm.light_crossing is None:
            videos = true_videos(scenes, frames, size)
        else:
            seeds = [self._context.video_seed(key) for key in keys]
            videos = videos_of_wandering_light(scenes, frames, size, self._arm.light_crossing, seeds)
        return autoencoded(videos, self._context.vae) if self._arm.autoencoded else videos


def _open_network(arm: ArmConfig, context: EvalContext) -> WanTransformer:
    network = open_transformer(arm.path, key=f"arm {arm.name}", kind=arm.kind, text_dim=context.text_dim)
    return network.to(context.device)
