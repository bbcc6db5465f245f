"""Encode scenes once, so that the stages that learn from latents never wait for the renderer or the autoencoder.

Processes share the shards among themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sfpp_core.wan.config import WAN21, to_model_space

from ..config import StageConfig, core_refusals, require
from ..data.clips import clip_shard, clip_shards
from ..data.scenes import SceneSpec, describe, render, sample_scene
from ..data.shards import Shard
from ..engine.run_folder import RunFolder
from ..models.kernels import channels_last
from ..models.open import open_autoencoder

Moments = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Video to the mean and log-variance of its latents."""
WORDING_STEP = 7919
"""From a clip's wording to its next: a prime, which has no factor in common with the number of a scene's sentences, so
that no sentence comes again before all have come."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentsStageConfig(StageConfig):
    """The latents stage. A run is resumed at the first shard that is missing."""

    vae: str
    """File of the autoencoder."""
    clips: int
    """Scenes to encode, from scene 0 of the seed on."""
    frames: int = 21
    """Latent frames of a clip."""
    size: int = 64
    """Height and width in pixels."""
    shard: int = 100
    """Clips a file."""
    batch: int = 4
    """Clips encoded at once."""
    wordings: int = 4
    """Prompts a clip, which differ in nothing but words."""

    def __post_init__(self) -> None:
        StageConfig.__post_init__(self)
        for name in ("clips", "frames", "shard", "batch", "wordings"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1.")
        require(self.clips % self.shard == 0, f"clips is {self.clips}; it must be a multiple of shard, {self.shard}.")
        with core_refusals():
            WAN21.latent_size(self.size, self.size)


CONFIG = LatentsStageConfig


def run(config: LatentsStageConfig) -> bool:
    """Encode until this process's shards are there or `run.max_minutes` are over; True when finished."""
    vae = open_autoencoder(config.vae).to(config.device)
    # Last: the folder then belongs to this configuration, and one that names a wrong file should own none.
    folder = RunFolder(config, stage="latents")
    encode = torch.compile(vae.encode_moments, dynamic=False) if config.run.compile else vae.encode_moments

    def make(index: int) -> Shard:
        scenes = [sample_scene(config.seed, index * config.shard + item) for item in range(config.shard)]
        pieces = [scenes[first : first + config.batch] for first in range(0, len(scenes), config.batch)]
        latents = torch.cat([_encode(encode, piece, config) for piece in pieces])
        return clip_shard(latents, [_prompts(scene, config.wordings) for scene in scenes])

    num_shards = config.clips // config.shard
    return clip_shards(folder.path).make(num_shards, make, max_minutes=config.run.max_minutes)


@torch.no_grad()
def _encode(encode: Moments, scenes: list[SceneSpec], config: LatentsStageConfig) -> Tensor:
    """B C T H W in model space."""
    video = channels_last(render(scenes, 0, WAN21.pixel_frames(config.frames), config.size, config.size))
    video = video.to(config.device)
    with config.autocast():
        mean, _ = encode(video)
    return to_model_space(mean.float()).cpu()


def _prompts(scene: SceneSpec, wordings: int) -> list[str]:
    """The scene's own wording first."""
    return [describe(scene.attributes, scene.wording + index * WORDING_STEP) for index in range(wordings)]
