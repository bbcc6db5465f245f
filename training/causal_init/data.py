"""Data and protocol of the objectives that start a causal student: each makes its own batches and its loss.

Whole clips pass through the causal network at once: a chunk sees what the rolling cache would show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.flow import NUM_TIMESTEPS, generator_for
from sfpp_core.wan.attention import chunk_causal, num_past, teacher_forcing
from sfpp_core.wan.transformer import WanTransformer

from ..config import require
from ..data.clips import ClipSource, LatentClips
from ..data.prompt_embeds import Conditioning, ConditioningConfig, TinyTexts, padded
from ..data.scenes import FIRST_HELD_OUT, prompt_for, sample_scene
from ..data.trajectories import OdeTrajectories
from ..engine.supervised import Loss


class Objective(Protocol):
    """One way to start a student off."""

    def batch(self, step: int) -> Any:
        """This process's part of a step's batch, a pure function of (seed, step); see `loop.Task.batch`."""
        ...

    def loss(self, batch: Any, step: int) -> Loss:
        """Return what it costs; see `supervised.LossTask.loss`."""
        ...


MANY_WORDINGS = 2**20
"""Wordings are drawn from so many and taken modulo their number."""


class Clips(Protocol):
    """The source of examples: `LatentClips`, or the ends of `OdeTrajectories`."""

    def __len__(self) -> int: ...

    def clip(self, index: int) -> Tensor:
        """[C, T, H, W], model space, float32."""
        ...

    def prompt(self, index: int, wording: int) -> str:
        """Its prompt, in one of its wordings."""
        ...


class Texts(Protocol):
    """The source of prompt embeds: `Conditioning`, or `TextsOnDemand`."""

    def text_of(self, prompts: Sequence[str]) -> Tensor:
        """[B, L, text_dim], float32 on the CPU."""
        ...

    def negative(self, batch: int) -> Tensor:
        """[batch, L, text_dim], float32 on the CPU."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """A batch, or a process's part of it."""

    clips: Tensor
    """B C T H W, model space, float32."""
    text: Tensor
    """[B, L, text_dim], float32."""
    samples: range
    """Which of the global batch they are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """The random choices of a sample."""

    index: int
    """Of a clip."""
    wording: int


def draw(num_clips: int, seed: int, step: int, *, samples: range) -> list[Draw]:
    """Uniform draws of clips and wordings, one a sample."""
    generators = [generator_for(seed, "example", step, sample) for sample in samples]
    return [
        Draw(
            index=int(torch.randint(num_clips, (), generator=generator)),
            wording=int(torch.randint(MANY_WORDINGS, (), generator=generator)),
        )
        for generator in generators
    ]


def draw_examples(clips: Clips, texts: Texts, seed: int, step: int, *, samples: range) -> Examples:
    """The clips of a step with their texts."""
    draws = draw(len(clips), seed, step, samples=samples)
    return Examples(
        clips=torch.stack([clips.clip(each.index) for each in draws]),
        text=texts.text_of([clips.prompt(each.index, each.wording) for each in draws]),
        samples=samples,
    )


WATCHED_PROMPTS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingClips:
    """Clips, their texts, and the prompts of sample videos."""

    clips: Clips
    texts: Texts
    watched: list[str]
    latent_size: tuple[int, int]
    """Height and width of a latent frame."""


class TextsOnDemand:
    """Texts for any prompt, from the built-in family's encoder: a millisecond each, and too many to keep."""

    def __init__(self, path: str | None) -> None:
        # On the CPU, because processes that prepare batches have no other device.
        self._encoder = TinyTexts(path, device=torch.device("cpu"))

    def text_of(self, prompts: Sequence[str]) -> Tensor:
        """See Texts."""
        return torch.stack([padded(text, self._encoder.length) for text in self._encoder.encode(prompts)])

    def negative(self, batch: int) -> Tensor:
        """The empty prompt; see Texts."""
        return self.text_of([""]).expand(batch, -1, -1)


def clips_of_scenes(sources: Sequence[ClipSource], text_encoder: str, *, frames: int, seed: int) -> TrainingClips:
    """Encoded scenes of the built-in family; held-out ones are watched.

    Raises:
        ConfigError: there are fewer clips, or shorter ones, or no text encoder.
    """
    clips = LatentClips.read(sources, frames)
    watched = [prompt_for(sample_scene(seed, FIRST_HELD_OUT + index)) for index in range(WATCHED_PROMPTS)]
    size = tuple(clips.latents.shape[-2:])
    return TrainingClips(clips=clips, texts=TextsOnDemand(text_encoder), watched=watched, latent_size=size)


def ends_of_trajectories(
    folder: str, conditioning: ConditioningConfig, *, frames: int, device: torch.device
) -> TrainingClips:
    """Trajectories of a teacher's ODE, whose ends are clips; the first prompts are watched.

    Raises:
        ConfigError: there are none, they are of another length, or of other prompts.
    """
    trajectories = OdeTrajectories(folder)
    made = trajectories.shape[1]
    require(made == frames, f"{folder} holds trajectories of {made} latent frames, but frames is {frames}.")
    texts = Conditioning.open(conditioning, device=device)
    texts.text_of(trajectories.prompts[:1])
    size = tuple(trajectories.shape[-2:])
    return TrainingClips(clips=trajectories, texts=texts, watched=texts.prompts[:WATCHED_PROMPTS], latent_size=size)


class CausalPass:
    """The flow of clips of one length, for any network of the student's kind."""

    def __init__(self, rollout: RolloutConfig, *, frames: int) -> None:
        """frames: latent frames of a clip."""
        sizes = {"chunk": rollout.chunk, "window": rollout.window, "sink": rollout.sink}
        self._context_noise = rollout.context_noise
        self._num_past = num_past(frames, chunk=rollout.chunk)
        self._positions = (*range(self._num_past), *range(frames))
        self._after_clean = teacher_forcing(range(frames), **sizes)
        self._after_noisy = chunk_causal(range(frames), **sizes)

    def after_clean(self, network: WanTransformer, past: Tensor, x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        """Flow of x, every chunk given the clean chunks of `past` before it, as in a rollout (teacher forcing).

        past, x: B C T H W; the last chunk of `past` is nobody's past. sigma: noise levels of x, [B, T]; the past is
        told the context's.
        """
        context = torch.full_like(sigma[:, : self._num_past], self._context_noise)
        timestep = torch.cat([context, sigma * NUM_TIMESTEPS], dim=1)
        both = torch.cat([past[:, :, : self._num_past], x], dim=2)
        flow = network(both, timestep, text, positions=self._positions, visibility=self._after_clean)
        return flow[:, :, self._num_past :]

    def after_noisy(self, network: WanTransformer, x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        """Flow of x, every chunk given the chunks of x itself before it, each at its own noise level [B, T]."""
        return network(x, sigma * NUM_TIMESTEPS, text, visibility=self._after_noisy)
