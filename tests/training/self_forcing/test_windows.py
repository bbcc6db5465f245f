"""Which frames of a rollout are judged, and that they make a video that a teacher knows."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from sfpp_core.tiny.family import load_family_text_encoder, load_student, load_vae
from sfpp_core.wan.config import to_model_space, to_vae_space
from sfpp_core.wan.vae import WanVAE
from training.config import ConfigError
from training.data.scenes import prompt_for, render, sample_scene
from training.models.sampling import encode_prompts, sample_student
from training.self_forcing.windows import WARMUP_FRAMES, Window, WindowConfig, as_clip, draw_window, rollout_frames_at

CHUNK = 3
MASKED = WindowConfig(rollout_frames=21).masked_frames
SCENE = sample_scene(6, 2**40)
EARLY, LATE = Window(start=3, frames=9), Window(start=WARMUP_FRAMES + 3, frames=9)


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    return load_vae()


@pytest.fixture(scope="module")
def video() -> Tensor:
    """Of the shipped student, to the end of the late window."""
    network, config = load_student()
    text = encode_prompts(load_family_text_encoder(), [prompt_for(SCENE)])
    return sample_student(network, text, config=config, seed=2, frames=LATE.end, size=(8, 8))


@pytest.fixture(scope="module")
def pictures(video: Tensor, vae: WanVAE) -> Tensor:
    """All that the late window's masked frames show, and all before, decoded from the video's beginning."""
    return vae.decode(to_vae_space(video[:, :, : LATE.start + MASKED]))


def rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


def beginning_by_full_decode(pictures: Tensor, vae: WanVAE, window: Window) -> Tensor:
    """Masked frames of a window as the first of a video, from a decode that forgot nothing."""
    first = 4 * window.start
    return to_model_space(vae.encode(pictures[:, :, first : first + 4 * (MASKED - 1) + 1]))


def test_windows_start_at_every_chunk_equally_often() -> None:
    config = WindowConfig(rollout_frames=60)
    draws = [draw_window(config, "student", step, seed=3, rollout_frames=60, chunk=CHUNK) for step in range(4200)]
    counts = Counter(window.start for window in draws)
    assert sorted(counts) == list(range(0, 60 - 21 + 1, CHUNK)), "the last start, N - K, is among them"
    assert sum((count - 300) ** 2 / 300 for count in counts.values()) < 34.5, "chi-square, 13 degrees, p = 0.001"
    assert all(window.frames == 21 and window.end == window.start + 21 for window in draws)


def test_the_window_of_a_step_is_the_same_for_everyone_and_another_for_other_names() -> None:
    config = WindowConfig(rollout_frames=60)
    first, again, other = (
        [draw_window(config, name, step, seed=3, rollout_frames=60, chunk=CHUNK) for step in range(20)]
        for name in ("student", "student", "critic")
    )
    assert first == again != other


def test_the_beginning_can_be_drawn_more_often_and_the_rest_stays_uniform() -> None:
    config = WindowConfig(rollout_frames=60, first_window_probability=0.3)
    draws = [draw_window(config, step, seed=3, rollout_frames=60, chunk=CHUNK).start for step in range(4200)]
    counts = Counter(draws)
    assert counts[0] / len(draws) == pytest.approx(0.3 + 0.7 / 14, abs=0.025)
    expected = 0.7 / 14 * len(draws)
    later = [counts[start] for start in range(CHUNK, 40, CHUNK)]
    assert sum((count - expected) ** 2 / expected for count in later) < 34.5


def test_a_rollout_of_one_window_is_judged_from_its_beginning() -> None:
    config = WindowConfig(rollout_frames=21)
    assert {draw_window(config, step, seed=3, rollout_frames=21, chunk=CHUNK).start for step in range(20)} == {0}
    assert rollout_frames_at(config, 0, chunk=CHUNK) == 21


def test_rollouts_grow_by_whole_chunks_from_one_window_to_full_length() -> None:
    config = WindowConfig(rollout_frames=420, ramp_updates=50)
    lengths = [rollout_frames_at(config, update, chunk=CHUNK) for update in range(70)]
    assert lengths[0] == 21 and lengths[50:] == [420] * 20
    for update, length in enumerate(lengths[:50]):
        assert length % CHUNK == 0 and 0 <= 21 + 399 * update / 50 - length < CHUNK
    assert rollout_frames_at(WindowConfig(rollout_frames=420), 0, chunk=CHUNK) == 420


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"frames": 1}, "window.frames is 1; it must be at least 2"),
        ({"rollout_frames": 18}, "rollout_frames is 18, shorter than a window of 21; write 21 or more"),
        ({"ramp_updates": -1}, "window.ramp_updates is -1"),
        ({"first_window_probability": 1.5}, "window.first_window_probability is 1.5"),
        ({"masked_frames": 0}, "window.masked_frames is 0; it must lie between 1 and 20"),
        ({"masked_frames": 21}, "window.masked_frames is 21"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WindowConfig(**({"rollout_frames": 60} | wrong))


def test_lengths_that_cut_a_chunk_are_refused() -> None:
    WindowConfig(rollout_frames=60).check_chunk(3)
    with pytest.raises(ConfigError, match="window.rollout_frames is 61; it must be a multiple of the chunk, 3. Try 60"):
        WindowConfig(rollout_frames=61).check_chunk(3)
    with pytest.raises(ConfigError, match="window.frames is 21; it must be a multiple of the chunk, 4. Try 20"):
        WindowConfig(rollout_frames=60).check_chunk(4)


def test_the_beginning_of_a_video_is_judged_as_it_is(video: Tensor, vae: WanVAE) -> None:
    window = Window(start=0, frames=9)
    clip = as_clip(video[:, :, window.with_warmup], vae, window, masked_frames=MASKED)
    assert torch.equal(clip.latents, video[:, :, :9])
    assert clip.mask.shape == (1, 1, 9, 1, 1) and clip.mask.all()


def test_a_window_from_mid_video_begins_as_a_video_and_keeps_the_rest(
    video: Tensor, pictures: Tensor, vae: WanVAE
) -> None:
    """Where the warm-up reaches back to the video's beginning there is no difference to a full decode at all."""
    latents = video[:, :, EARLY.with_warmup].requires_grad_()
    clip = as_clip(latents, vae, EARLY, masked_frames=MASKED)
    assert clip.latents.shape == (1, 16, 9, 8, 8)
    assert torch.equal(clip.latents[:, :, :MASKED], beginning_by_full_decode(pictures, vae, EARLY))
    assert torch.equal(clip.latents[:, :, MASKED:], video[:, :, 3 + MASKED : 12])
    assert clip.mask.flatten().tolist() == [False] * MASKED + [True] * (9 - MASKED)

    weights = torch.randn_like(clip.latents)
    (clip.latents * weights).sum().backward()
    assert torch.equal(latents.grad[:, :, 3 + MASKED :], weights[:, :, MASKED:])
    assert not latents.grad[:, :, : 3 + MASKED].any()


def test_precision_of_latents_and_of_the_caller_do_not_reach_the_autoencoder(video: Tensor, vae: WanVAE) -> None:
    latents = video[:, :, EARLY.with_warmup].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        clip = as_clip(latents, vae, EARLY, masked_frames=MASKED)
    assert clip.latents.dtype == torch.bfloat16
    assert torch.equal(clip.latents, as_clip(latents.float(), vae, EARLY, masked_frames=MASKED).latents.bfloat16())


NEAR = 0.1
"""Root mean square between latents that count as the same picture's; a half of what encoding and decoding loses."""


def test_the_warm_up_is_long_enough(video: Tensor, pictures: Tensor, vae: WanVAE) -> None:
    """And half of it would not be: without its first frames, which an early window takes for its beginning."""
    wanted = beginning_by_full_decode(pictures, vae, LATE)
    clip = as_clip(video[:, :, LATE.with_warmup], vae, LATE, masked_frames=MASKED)
    assert LATE.warmup == WARMUP_FRAMES and rms(wanted) > 0.7
    assert rms(clip.latents[:, :, :1] - wanted[:, :, :1]) < NEAR
    assert rms(clip.latents[:, :, :MASKED] - wanted) < 0.05

    half = Window(start=WARMUP_FRAMES // 2, frames=9)
    clip = as_clip(video[:, :, LATE.start - half.start : LATE.end], vae, half, masked_frames=MASKED)
    assert rms(clip.latents[:, :, :1] - wanted[:, :, :1]) > NEAR


def test_frames_that_count_are_those_of_a_true_short_video(vae: WanVAE) -> None:
    """A scene's frames from mid-video against the scene encoded from there on: only masked ones miss their past."""
    start, frames = 12, 9
    video = render([SCENE], 0, 4 * (start + frames - 1) + 1, 64, 64)
    later = to_model_space(vae.encode(video))[:, :, start:]
    short = to_model_space(vae.encode(video[:, :, 4 * start :]))
    off = [rms(later[:, :, frame] - short[:, :, frame]) for frame in range(frames)]
    assert min(off[:4]) > 0.1, "these would be no frames of a short video"
    assert max(off[MASKED:]) < 0.05


def test_a_piece_of_video_of_another_length_is_refused(video: Tensor, vae: WanVAE) -> None:
    with pytest.raises(
        ValueError, match="there are 9 latent frames; a window of 9 from frame 3 on comes with 3 before"
    ):
        as_clip(video[:, :, :9], vae, EARLY, masked_frames=MASKED)
