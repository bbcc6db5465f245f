"""The counted cost of every kind of network call that a step is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from sfpp_core.wan.config import WanConfig
from sfpp_core.wan.transformer import WanTransformer
from sfpp_core.wan.vae import WanVAE

from ..self_forcing.windows import WARMUP_FRAMES, Window
from .config import ScalingConfig
from .counting import Cost, Pass, count, count_size
from .passes import Passes, Training

META = torch.device("meta")
COMPUTE_DTYPE = torch.bfloat16
"""What full-size networks compute in."""
WATCHED_FRAMES = (2, 3)
"""From the second latent frame on, the decoder does for each the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Parameters of a network."""

    all: int
    block: int
    """Of one transformer block."""
    rest: int
    """Embeddings and head, which belong to no block."""

    @classmethod
    def of(cls, model: WanConfig) -> Sizes:
        """Counted on the network itself."""
        with META:
            network = WanTransformer(model)
        total, block = num_parameters(network), num_parameters(network.blocks[0])
        return cls(all=total, block=block, rest=total - model.num_layers * block)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkCosts:
    """Of a chunk's pass, by the past that it finds in the cache."""

    alone: Cost
    """Against an empty cache."""
    full: Cost
    """Against a cache as full as it gets."""
    most_past: int
    """Latent frames of that."""

    def flops(self, past_frames: int) -> float:
        """Of a pass against `past_frames` latent frames. Attention to them is linear in their number, nothing else
        depends on them.
        """
        share = past_frames / self.most_past if self.most_past else 0.0
        return self.alone.flops + share * (self.full.flops - self.alone.flops)


@dataclass(frozen=True, kw_only=True, slots=True)
class PassCosts:
    """What `count_passes` counts. Clips are windows of K latent frames."""

    student: Sizes
    teachers: dict[str, Sizes]
    vae_parameters: int
    chunk: ChunkCosts
    """No gradient: a denoising step, or the clean pass."""
    chunk_training: dict[bool, ChunkCosts]
    """Forward and backward, without and with activation checkpointing."""
    critic: Cost
    critic_training: dict[bool, Cost]
    """As `chunk_training`."""
    causal_init: dict[bool, Cost]
    """A clip with teacher forcing; as `chunk_training`."""
    teacher: dict[str, Cost]
    text: Cost
    """Keys and values of a prompt for every layer."""
    first_frames: dict[int, Cost]
    """Of making a window from mid-video begin as a video does, by its latent frames of warm-up."""
    watch: dict[int, Cost]
    """Of the first latent frames of a video, decoded one after the other, by their number; longer videos have no more
    alive at a time."""

    @property
    def frame_flops(self) -> float:
        """Of decoding one more latent frame of a video."""
        fewer, more = WATCHED_FRAMES
        return (self.watch[more].flops - self.watch[fewer].flops) / (more - fewer)


def num_parameters(module: torch.nn.Module) -> int:
    """Weights of a module."""
    return sum(weight.numel() for weight in module.parameters())


def count_passes(config: ScalingConfig, *, dtype: torch.dtype = COMPUTE_DTYPE) -> PassCosts:
    """Count all passes on the meta device: half a minute, whatever the size."""
    passes = Passes(config, device=META, dtype=dtype)
    trainings = {checkpointing: Training(checkpointing) for checkpointing in (False, True)}
    with META:
        vae = WanVAE(config.vae)
    return PassCosts(
        student=Sizes.of(config.student),
        teachers={name: Sizes.of(model) for name, model in config.teachers.items()},
        vae_parameters=num_parameters(vae),
        chunk=_count_chunk(config, passes, None),
        chunk_training={key: _count_chunk(config, passes, training) for key, training in trainings.items()},
        critic=count_network(passes.clip, config.student),
        critic_training={
            key: count_network(lambda model, training=training: passes.clip(model, training), config.student)
            for key, training in trainings.items()
        },
        causal_init={
            key: count_network(lambda model, training=training: passes.teacher_forcing(model, training), config.student)
            for key, training in trainings.items()
        },
        teacher={name: count_network(passes.clip, model) for name, model in config.teachers.items()},
        text=count_network(passes.texts, config.student),
        first_frames={frames: count(passes.first_frames(frames)) for frames in warmups(config)},
        watch={frames: count(passes.watch(frames)) for frames in WATCHED_FRAMES},
    )


def count_network(make: Callable[[WanConfig], Pass], model: WanConfig) -> Cost:
    """The cost of a pass through all layers of a transformer."""
    return count_size(lambda layers: make(replace(model, num_layers=layers)), model.num_layers)


def warmups(config: ScalingConfig) -> list[int]:
    """Latent frames of warm-up that windows from mid-video may have."""
    starts = range(config.rollout.chunk, WARMUP_FRAMES + config.rollout.chunk, config.rollout.chunk)
    return sorted({Window(start=start, frames=config.window.frames).warmup for start in starts})


def _count_chunk(config: ScalingConfig, passes: Passes, training: Training | None) -> ChunkCosts:
    most = config.rollout.window - config.rollout.chunk
    alone, full = (
        count_network(lambda model, past=past: passes.chunk(model, past, training), config.student)
        for past in (0, most)
    )
    return ChunkCosts(alone=alone, full=full, most_past=most)
