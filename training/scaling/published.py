"""What published runs say about the assumed speed: their FLOPs, counted here, over the time that they state."""

from __future__ import annotations

from sfpp_core.wan.config import WAN21

from .config import ScalingConfig
from .costs import PassCosts
from .tables import decimal, table
from .work import GUIDED_PASSES

VIDEO_FRAMES_PER_SECOND = 17.0
"""Pictures a second that Self-Forcing makes on one H100 (arXiv 2506.08009; 17.0 in arXiv 2510.02283 too)."""
TRAINING_ITERATIONS = 600
"""Of Self-Forcing with DMD, critic updates; every fifth comes with a generator update (its readme)."""
TRAINING_GPU_SECONDS = 2 * 3600.0
"""Its readme: under two hours on 64 H100, one video each."""
RANDOM_STEP_CALLS = 2.5
"""Mean denoising calls of a chunk that ends after one to four of them, each as likely: Self-Forcing's training."""


def implied_speeds(config: ScalingConfig, costs: PassCosts) -> str:
    """A table of them."""
    inference = (inference_flops(config, costs), pictures(config) / VIDEO_FRAMES_PER_SECOND)
    rows = [_row("Self-Forcing, a chunk with decoding, 17 pictures a second", *inference)]
    for teacher in config.teachers:
        flops = training_flops(config, costs, teacher)
        rows.append(_row(f"Self-Forcing, training, {teacher}, under 2 h on 64", flops, TRAINING_GPU_SECONDS))
    return table(["", "PFLOP a GPU", "s stated", "TFLOP/s implied"], rows)


def _row(name: str, flops: float, seconds: float) -> list[str]:
    return [name, decimal(flops / 1e15), decimal(seconds), decimal(flops / seconds / 1e12)]


def pictures(config: ScalingConfig) -> int:
    """That a chunk decodes to, from the second chunk of a video on."""
    return config.rollout.chunk * WAN21.temporal_stride


def inference_flops(config: ScalingConfig, costs: PassCosts) -> float:
    """Of a chunk in a rolling window: its denoising steps, its clean pass and its decoding."""
    calls = len(config.rollout.timesteps) + 1
    return calls * costs.chunk.full.flops + config.rollout.chunk * costs.frame_flops


def training_flops(config: ScalingConfig, costs: PassCosts, teacher: str) -> float:
    """Of Self-Forcing's whole training, one video a GPU.

    Every update rolls a window of its own; a chunk ends after a random step, whose graph is kept in generator updates,
    and is then passed clean. With activation checkpointing, as its code has it.
    """
    pasts = [config.past_frames(chunk) for chunk in range(config.window_chunks)]
    rollout = sum((RANDOM_STEP_CALLS + 1) * costs.chunk.flops(past) for past in pasts)
    backward = sum(costs.chunk_training[True].flops(past) - costs.chunk.flops(past) for past in pasts)
    generator = rollout + backward + GUIDED_PASSES * costs.teacher[teacher].flops + costs.critic.flops
    critic = rollout + costs.critic_training[True].flops
    return TRAINING_ITERATIONS * (critic + generator / config.critic_updates)
