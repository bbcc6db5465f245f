"""What a student is started off on: clips with texts that tell networks of their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..conditioning import Conditioning, ConditioningConfig
from ..config import require
from ..latent_clips import ClipSource, LatentClips
from ..ode_trajectories import OdeTrajectories
from ..scenes import FIRST_HELD_OUT, prompt_for, sample_scene
from ..text_encoders import TinyTexts, padded
from .examples import Clips, Texts

WATCHED_PROMPTS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
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


def clips_of_scenes(sources: Sequence[ClipSource], text_encoder: str, *, frames: int, seed: int) -> Material:
    """Encoded scenes of the built-in family; held-out ones are watched.

    Raises:
        ConfigError: there are fewer clips, or shorter ones, or no text encoder.
    """
    clips = LatentClips.read(sources, frames)
    watched = [prompt_for(sample_scene(seed, FIRST_HELD_OUT + index)) for index in range(WATCHED_PROMPTS)]
    size = tuple(clips.latents.shape[-2:])
    return Material(clips=clips, texts=TextsOnDemand(text_encoder), watched=watched, latent_size=size)


def ends_of_trajectories(
    folder: str, conditioning: ConditioningConfig, *, frames: int, device: torch.device
) -> Material:
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
    return Material(clips=trajectories, texts=texts, watched=texts.prompts[:WATCHED_PROMPTS], latent_size=size)
