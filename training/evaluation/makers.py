"""Who makes the films of an arm, and what decides how they look.

Axes: B film, F frame, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.flow import SeededNoise
from sfpp_core.wan.config import WAN21
from sfpp_core.wan.transformer import WanTransformer
from sfpp_core.wan.vae import WanVAE

from ..conditioning import Conditioning
from ..config import require
from ..models import check_transformer, fingerprint, open_transformer
from ..sampling import sample_teacher
from ..seeding import generator_for
from .arms import STUDENT, TEACHER, TRUTH, ArmConfig
from .decoding import FilmDecoder
from .lengths import END_LATENT_FRAMES
from .records import FilmKey, hash_of_text
from .rolling_out import Cast, Student
from .truth import attributes_in, autoencoded, check_square, films_of_wandering_light, true_films, true_scene


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
class Bench:
    """What all arms share."""

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

    def film_seed(self, key: FilmKey) -> int:
        """The same for a film in every arm, so that differences between arms are paired."""
        return int(torch.randint(2**31, (), generator=generator_for(self.seed, "film", key.prompt, key.take)))

    def cast(self, keys: Sequence[FilmKey], latent_frames: int) -> Cast:
        """Films to be made together."""
        return Cast(
            text=self.conditioning.text([key.prompt for key in keys]).to(self.device),
            seeds=tuple(self.film_seed(key) for key in keys),
            latent_size=self.latent_size,
            latent_frames=latent_frames,
        )


class FilmMaker(Protocol):
    """Makes films of an arm."""

    identity: dict[str, Any]
    """What decides the films besides prompt, seed and size; JSON."""
    reach: int | None
    """Most latent frames that it can make; None for any number."""

    def film(self, keys: Sequence[FilmKey], latent_frames: int) -> Iterator[Tensor]:
        """The pictures of films in order, pieces of B 3 F H W in [-1, 1], `latent_frames` or more in all."""
        ...


def check_arm(arm: ArmConfig, bench: Bench, *, prompts: int) -> None:
    """Find out whether an arm can make films of the first `prompts`, with its weights still in their file.

    Raises:
        ConfigError: its weights are missing, another model's, or cannot be rolled out so; or its prompts or pictures
            are none of procedural scenes.
    """
    if arm.kind == TRUTH:
        check_square(bench.height, bench.width)
        for prompt in bench.conditioning.prompts[:prompts]:
            attributes_in(prompt)
        return
    check_transformer(arm.path, key=f"arm {arm.name}", kind=arm.kind, text_dim=bench.text_dim)
    if arm.kind == STUDENT:
        arm.rollout()


def open_maker(arm: ArmConfig, bench: Bench) -> FilmMaker:
    """The maker of an arm's films.

    Raises:
        ConfigError: its weights are missing, another model's, or cannot be rolled out so.
    """
    if arm.kind == STUDENT:
        return StudentMaker(arm, bench)
    return TruthMaker(arm, bench) if arm.kind != TEACHER else TeacherMaker(arm, bench)


class StudentMaker:
    """A causal student, rolled out."""

    reach = None

    def __init__(self, arm: ArmConfig, bench: Bench) -> None:
        settings: RolloutConfig = arm.rollout()
        network = _open_network(arm, bench)
        self._bench = bench
        self._student = Student(
            network=network,
            vae=bench.vae,
            settings=settings,
            dtype=bench.dtype,
            noisy_past=arm.cache_noise > 0,
            overlap=arm.overlap,
        )
        self.identity = {
            "weights": fingerprint(network),
            "rollout": asdict(settings),
            "cache_noise": arm.cache_noise,
            "overlap": arm.overlap,
        }

    def film(self, keys: Sequence[FilmKey], latent_frames: int) -> Iterator[Tensor]:
        """See FilmMaker."""
        return self._student.film(self._bench.cast(keys, latent_frames))


class TeacherMaker:
    """The bidirectional teacher: one clip of its horizon."""

    def __init__(self, arm: ArmConfig, bench: Bench) -> None:
        self._bench, self._sampler = bench, bench.sampler
        self._network = _open_network(arm, bench)
        self.reach = self._sampler.frames
        self.identity = {
            "weights": fingerprint(self._network),
            "sampler": asdict(self._sampler),
            "negative": hash_of_text(bench.conditioning.negative(1)),
        }

    def film(self, keys: Sequence[FilmKey], latent_frames: int) -> Iterator[Tensor]:
        """See FilmMaker; a clip is one piece."""
        cast, sampler = self._bench.cast(keys, latent_frames), self._sampler
        shape = (1, self._network.config.in_channels, sampler.frames, *cast.latent_size)
        noise = torch.cat([SeededNoise(seed)(0, 0, shape) for seed in cast.seeds])
        negative = self._bench.conditioning.negative(len(keys)).to(self._bench.device)
        latents = sample_teacher(
            self._network,
            cast.text,
            negative,
            noise,
            steps=sampler.steps,
            shift=sampler.shift,
            guidance=sampler.guidance,
        )
        yield FilmDecoder(self._bench.vae).push(latents)


class TruthMaker:
    """Rendered scenes of the prompts: the same ones through the autoencoder or not."""

    reach = None

    def __init__(self, arm: ArmConfig, bench: Bench) -> None:
        check_square(bench.height, bench.width)
        self._bench, self._arm = bench, arm
        self.identity = {"truth": "scenes", "autoencoded": arm.autoencoded}
        if arm.light_crossing is not None:
            self.identity["light_crossing"] = arm.light_crossing

    def film(self, keys: Sequence[FilmKey], latent_frames: int) -> Iterator[Tensor]:
        """See FilmMaker."""
        prompts, seed = self._bench.conditioning.prompts, self._bench.seed
        scenes = [true_scene(attributes_in(prompts[key.prompt]), seed, key.prompt, "film", key.take) for key in keys]
        frames, size = WAN21.pixel_frames(latent_frames), self._bench.height
        if self._arm.light_crossing is None:
            films = true_films(scenes, frames, size)
        else:
            seeds = [self._bench.film_seed(key) for key in keys]
            films = films_of_wandering_light(scenes, frames, size, self._arm.light_crossing, seeds)
        return autoencoded(films, self._bench.vae) if self._arm.autoencoded else films


def _open_network(arm: ArmConfig, bench: Bench) -> WanTransformer:
    network = open_transformer(arm.path, key=f"arm {arm.name}", kind=arm.kind, text_dim=bench.text_dim)
    return network.to(bench.device)
