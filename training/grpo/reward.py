"""The reward of GRPO: videos that move evenly, read off the optical flow between neighbouring frames.

Self-Forcing++ (arXiv 2510.02283) rewards by the magnitude of the flow, whose spikes are abrupt changes of scene, and
measures success by its variance in windows of 8 frames; sign and formula it does not give. Less flow is no aim: the
mean, negated, is largest for a video that stands still, and so is a negated variance. Here, for every window w of 8
neighbouring pairs of frames, with mean m and standard deviation d of their flow,

    cost(w) = (d / sqrt(7) + max(0, floor - m)) / max(m, floor),        reward = 1 - mean over windows of cost(w)

sqrt(7) is the largest d / m that 8 numbers of one sign can have: all zero but one. So the reward lies in [0, 1]. It is
1 for a video that moves steadily, whatever its speed above the floor, and 0 for a still video as well as for one
that moves by a single jump a window: nothing is gained by trading one for the other. The floor is a share of the
motion that the starting student shows for the same prompt; it holds in every window, so a video cannot rest in between.

What the reward cannot tell: fine grain is flow too, and adds a steady part to it. Watch `flow` beside `starting_flow`,
that of the starting student: below it videos freeze, far above it they shimmer. A KL penalty holds off both.

Speeds are those of sfpp_core/stability, in picture heights a second.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from sfpp_core.stability.measure import MotionField
from sfpp_core.stability.metrics import VARIANCE_FRAMES
from sfpp_core.wan.config import FRAMES_PER_SECOND, to_vae_space
from sfpp_core.wan.vae import DecodeStream, WanVAE

from ..engine.metrics import to_bytes

LEAST_FLOOR: Final = 1e-3
"""Picture heights a second: a starting student that stands still must not turn the noise of the flow into motion."""

# The rating of videos measures motion at this size; larger pictures are averaged down to it.
_LONGER_SIDE: Final = 256


class FlowMeter:
    """Measures the flow of one video, given its frames piece by piece; memory is that of one picture."""

    def __init__(self) -> None:
        self._field = MotionField()
        self._flow: list[float] = []

    def push(self, pixels: Tensor) -> None:
        """The video's next frames, [3, F, H, W] in [-1, 1]."""
        frames = rearrange(pixels.float(), "c f h w -> f c h w")
        # Averaged where they lie, so that only small pictures leave the device.
        shrink = _LONGER_SIDE / max(frames.shape[-2:])
        if shrink < 1:
            size = [max(1, round(side * shrink)) for side in frames.shape[-2:]]
            frames = F.interpolate(frames, size=size, mode="area")
        pictures = to_bytes(rearrange(frames, "f c h w -> f h w c") / 2 + 0.5).contiguous().cpu().numpy()
        self._flow += [self._field.step(picture, 1 / FRAMES_PER_SECOND).flow for picture in pictures]

    @property
    def flow(self) -> NDArray[np.float64]:
        """Mean length of the flow from each frame to the next, [F - 1], picture heights a second."""
        return np.array(self._flow[1:])


def decoded_flow(vae: WanVAE, latents: Tensor) -> list[NDArray[np.float64]]:
    """Flow of each video, decoded frame by frame where the autoencoder is.

    latents: whole videos in model space, B C T H W.
    """
    device = next(vae.parameters()).device
    # In the precision of the weights, wherever it is asked for: a video has one reward.
    with torch.autocast(device.type, enabled=False):
        return [_flow_of(DecodeStream(vae), video.to(device)) for video in latents.split(1)]


def _flow_of(stream: DecodeStream, video: Tensor) -> NDArray[np.float64]:
    meter = FlowMeter()
    for frame in video.split(1, dim=2):
        meter.push(stream.push(to_vae_space(frame))[0])
    return meter.flow


def motion_floor(starting_flow: float, share: float) -> float:
    """The mean flow that a window should have, from the starting student's mean flow and the share of it to keep."""
    return max(share * starting_flow, LEAST_FLOOR)


def flow_reward(flow: NDArray[np.float64], floor: float) -> float:
    """Return how evenly a video moves, 0 to 1; the formula is at the head of this file.

    flow: [F - 1], at least 8 of them. floor: above 0, in the unit of `flow`.

    Raises:
        ValueError: the video is too short to have a window.
    """
    windows = _windows(flow)
    mean, deviation = windows.mean(axis=1), windows.std(axis=1)
    largest = math.sqrt(VARIANCE_FRAMES - 1)
    cost = (deviation / largest + np.maximum(0, floor - mean)) / np.maximum(mean, floor)
    return float(1 - cost.mean())


def flow_variance(flow: NDArray[np.float64]) -> float:
    """The paper's measure of success: variance of the flow in windows of 8, averaged over them. Raises as above."""
    return float(_windows(flow).var(axis=1).mean())


def _windows(flow: NDArray[np.float64]) -> NDArray[np.float64]:
    """[W, 8], every run of neighbours."""
    if len(flow) < VARIANCE_FRAMES:
        raise ValueError(
            f"the video has {len(flow) + 1} frames; its motion is judged in windows of {VARIANCE_FRAMES} pairs of "
            f"frames, so it needs at least {VARIANCE_FRAMES + 1}."
        )
    return np.lib.stride_tricks.sliding_window_view(flow.astype(np.float64), VARIANCE_FRAMES)
