"""The reward of GRPO on procedural scenes: even motion above standing still, stutter and cuts."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from einops import rearrange
from torch import Tensor

from sfpp_core.stability.measure import measure
from sfpp_core.stability.metrics import flow_variances
from sfpp_core.video.span import VideoSpan
from sfpp_core.wan.config import to_vae_space
from sfpp_core.wan.vae import WanVAE, WanVAEConfig
from training.data.scenes import Attributes, Colour, Motion, ObjectKind, Place, SceneSpec, Speed, render, sample_scene
from training.grpo.reward import (
    LEAST_FLOOR,
    FlowMeter,
    decoded_flow,
    flow_reward,
    flow_variance,
    motion_floor,
)

FRAMES = 49


def fast_scene(motion: Motion, place: Place, *, seed: int) -> SceneSpec:
    """Its object is in the picture from the first frame on; another seed is another scene of the same prompt."""
    named = Attributes(place=place, object=ObjectKind.BALL, colour=Colour.RED, motion=motion, speed=Speed.FAST)
    return replace(sample_scene(seed, 0), attributes=named, start_phase=0.3)


def flow_of(video: Tensor) -> np.ndarray:
    """video: [3, F, H, W] in [-1, 1]."""
    meter = FlowMeter()
    meter.push(video)
    return meter.flow


@pytest.mark.parametrize("motion", list(Motion))
@pytest.mark.parametrize("place", list(Place))
def test_smooth_motion_is_worth_more_than_standing_still_stutter_and_a_cut(motion: Motion, place: Place) -> None:
    first, other = (render(fast_scene(motion, place, seed=seed), 0, FRAMES, 64, 64)[0] for seed in (1, 2))
    frames, middle = torch.arange(FRAMES), FRAMES // 2
    floor = motion_floor(float(flow_of(first).mean()), 0.25)

    def reward(video: Tensor) -> float:
        return flow_reward(flow_of(video), floor)

    smooth = min(reward(first), reward(other))
    frozen = reward(first[:, frames * 0])
    assert frozen == 0
    assert frozen < reward(first[:, frames.clamp(max=middle)]) < smooth - 0.2, "comes to rest half way"
    assert frozen < reward(first[:, frames - frames % 4]) < smooth - 0.2, "shows every picture four times"
    assert frozen < reward(torch.cat([first[:, :middle], other[:, middle:]], dim=1)) < smooth - 0.05, "is cut once"


def test_the_formula_by_hand() -> None:
    assert flow_reward(np.full(20, 0.3), 0.1) == pytest.approx(1), "steady"
    assert flow_reward(np.full(20, 0.6), 0.1) == pytest.approx(1), "and twice as fast"
    assert flow_reward(np.zeros(20), 0.1) == 0
    assert flow_reward(np.full(20, 0.05), 0.1) == pytest.approx(0.5), "at half of the least motion"
    jump = np.zeros(8)
    jump[3] = 5.0
    assert flow_reward(jump, 0.1) == pytest.approx(0), "as bad as standing still"
    jump[3] = 0.4
    assert flow_reward(jump, 0.1) == pytest.approx(0), "also below the least motion"
    uneven = np.tile([0.1, 0.3], 4)
    assert flow_reward(uneven, 0.1) == pytest.approx(1 - 0.5 / math.sqrt(7))


def test_the_reward_lies_between_0_and_1() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        flow = random.exponential(size=30) * (random.random(30) < random.random())
        assert 0 <= flow_reward(flow, random.exponential() + 1e-3) <= 1


def test_noise_of_the_flow_is_no_motion_where_the_start_stood_still() -> None:
    assert motion_floor(0.0, 0.25) == LEAST_FLOOR
    assert motion_floor(0.4, 0.25) == pytest.approx(0.1)


def test_flow_and_its_variance_are_those_of_the_stability_report() -> None:
    video = render(sample_scene(3, 1), 0, 33, 64, 64)[0]
    images = rearrange(video / 2 + 0.5, "c f h w -> f h w c")
    series = measure(VideoSpan.from_images(images))
    flow = flow_of(video)
    np.testing.assert_allclose(flow, series.flow[1:], rtol=1e-6)
    assert flow_variance(flow) == pytest.approx(flow_variances(series).mean())


def test_large_videos_are_measured_at_the_size_of_the_report() -> None:
    video = render(sample_scene(3, 1), 0, 10, 512, 512)[0]
    series = measure(VideoSpan.from_images(rearrange(video / 2 + 0.5, "c f h w -> f h w c")))
    np.testing.assert_allclose(flow_of(video), series.flow[1:], rtol=0.02)


def test_videos_are_decoded_piece_by_piece_to_the_same_flow() -> None:
    torch.manual_seed(0)
    vae = WanVAE(WanVAEConfig(dim=4)).eval()
    latents = torch.randn(2, 16, 4, 4, 4)
    whole = vae.decode(to_vae_space(latents))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        flows = decoded_flow(vae, latents)
    for flow, video in zip(flows, whole, strict=True):
        np.testing.assert_array_equal(flow, flow_of(video))


def test_a_video_too_short_to_judge_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the video has 8 frames; .* needs at least 9"):
        flow_reward(np.ones(7), 0.1)
