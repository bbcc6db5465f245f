"""Memory of one GPU in a step under FSDP2, by part; bytes, one video at a time.

What stays is sharded: of n GPUs each holds 1 / n. What comes and goes is not; of its phases the largest counts. An
allocator adds to that what it wastes, and CUDA about half a gigabyte.
"""

from __future__ import annotations

from dataclasses import dataclass

from sfpp_core.rollout.kv_cache import RollingKVCache

from .config import ScalingConfig
from .costs import COMPUTE_DTYPE, PassCosts, Sizes
from .traffic import GATHERED_BYTES, REDUCED_BYTES

FLOAT32_BYTES = 4
ADAM_STATES = 2
"""First and second moment; PyTorch's AdamW keeps the first with a beta1 of 0 too."""
GATHERED_BLOCKS = 2
"""Alive at a time: one computes, the next is on its way."""
TRAINED = 2
"""Networks that are gathered while videos are watched: the student, and the critic as all that is trained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Of one GPU."""

    stays: dict[str, float]
    """From step to step."""
    phases: dict[str, float]
    """What each phase of a step has beside that, and watching between steps."""
    host: float
    """On the CPU, of videos that go on: the cache that each one ends with, and, of the one in work, that at its
    window's
    beginning, from which the window is played again."""
    opening: float
    """On the CPU while the run starts: the largest network, whole, until it is where it works; a process a GPU."""

    @property
    def peak(self) -> float:
        """Of the whole step."""
        return sum(self.stays.values()) + max(self.phases.values())


def memory(config: ScalingConfig, costs: PassCosts, *, gpus: int, teacher: str, checkpointing: bool) -> Memory:
    """Memory of one of `gpus` GPUs; `teacher` is a name in `config.teachers`."""
    return Memory(
        stays=_stays(costs, gpus, costs.teachers[teacher]),
        phases=_phases(config, costs, gpus, teacher, checkpointing),
        host=(config.samples_per_gpu(gpus) + 1) * cache_bytes(config, config.rollout.window),
        opening=max(costs.student.all * FLOAT32_BYTES, costs.teachers[teacher].all * COMPUTE_DTYPE.itemsize),
    )


def cache_bytes(config: ScalingConfig, frames: int) -> float:
    """Keys and values of `frames` latent frames of one video."""
    window = RollingKVCache.estimate_nbytes(
        config.student, config.rollout, batch=1, tokens_per_frame=config.tokens_per_frame, dtype=COMPUTE_DTYPE
    )
    return window * frames / config.rollout.window


def text_bytes(config: ScalingConfig) -> float:
    """Keys and values of one prompt in every layer."""
    return 2 * config.student.num_layers * config.text_tokens * config.student.dim * COMPUTE_DTYPE.itemsize


def _stays(costs: PassCosts, gpus: int, teacher: Sizes) -> dict[str, float]:
    share = costs.student.all * FLOAT32_BYTES / gpus
    return {
        "student and critic, float32": 2 * share,
        "their AdamW states": 2 * ADAM_STATES * share,
        "gradients of the one that learns": share,
        "moving average of the student": share,
        "teacher, bfloat16": teacher.all * GATHERED_BYTES / gpus,
        "autoencoder, float32, whole": costs.vae_parameters * FLOAT32_BYTES,
    }


def _phases(config: ScalingConfig, costs: PassCosts, gpus: int, teacher: str, checkpointing: bool) -> dict[str, float]:
    student = costs.student
    # A block's gradients are made in the computing dtype, which the pass counts, and summed over GPUs in float32.
    trained = _computing(student, gpus) + student.block * REDUCED_BYTES
    cache = cache_bytes(config, config.rollout.window)
    rolling = cache + text_bytes(config) + costs.chunk.full.peak_bytes
    first_frames = max(cost.peak_bytes for cost in costs.first_frames.values())
    return {
        # Weights stay gathered for a rollout.
        "rollout": rolling + student.all * GATHERED_BYTES,
        "first frames": first_frames,
        "teacher's score": costs.teacher[teacher].peak_bytes + _gathered(costs.teachers[teacher], gpus),
        "student's gradient": cache + costs.chunk_training[checkpointing].full.peak_bytes + trained,
        "critic's gradient": costs.critic_training[checkpointing].peak_bytes + trained,
        # AdamW's update of all weights at once has a temporary of the size of the weights.
        "optimiser": student.all * FLOAT32_BYTES / gpus,
        "watching": max(rolling, *(cost.peak_bytes for cost in costs.watch.values())) + _watched(student, gpus),
    }


def _computing(network: Sizes, gpus: int) -> float:
    """Weights of a trained network in the computing dtype: those gathered, or the copies that autocast keeps on a
    single GPU, where nothing is sharded.
    """
    return network.all * GATHERED_BYTES if gpus == 1 else _gathered(network, gpus)


def _watched(student: Sizes, gpus: int) -> float:
    """Weights while videos of the student's average are made: its own, put aside, and what is whole of the trained
    ones, on a single GPU autocast's copies of the student alone.
    """
    return student.all * FLOAT32_BYTES / gpus + (1 if gpus == 1 else TRAINED) * student.all * GATHERED_BYTES


def _gathered(network: Sizes, gpus: int) -> float:
    """Weights of a sharded network that are whole at a time."""
    return 0.0 if gpus == 1 else GATHERED_BYTES * (network.rest + GATHERED_BLOCKS * network.block)


def window_graph_bytes(config: ScalingConfig, costs: PassCosts, *, checkpointing: bool) -> float:
    """Peak of the student's gradient if the whole window's graph lived at once, as Self-Forcing's code has it, cache
    included.

    Every chunk keeps what it saved until all are done. With checkpointing a chunk's past is read again on the way back,
    when the ring has long moved on: the cache must hold what the first of the window's chunks saw and all that came
    after, window and window less a chunk.
    """
    chunk = costs.chunk_training[checkpointing].full
    working = chunk.peak_bytes - chunk.kept_bytes
    frames = config.rollout.window
    if checkpointing:
        frames += config.window.frames - config.rollout.chunk
    return config.window_chunks * chunk.kept_bytes + working + cache_bytes(config, frames)


def chunk_graph_bytes(config: ScalingConfig, costs: PassCosts, *, checkpointing: bool) -> float:
    """The same with one chunk's graph at a time."""
    return costs.chunk_training[checkpointing].full.peak_bytes + cache_bytes(config, config.rollout.window)
