"""The ways in which a student goes on: each is what its description says, and the rolling one is inference's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.flow import SeededNoise
from sfpp_core.rollout.rollout import Rollout
from sfpp_core.rollout.state import RolloutState
from sfpp_core.wan.config import WAN21, to_model_space
from tests.helpers.models import random_text, random_transformer
from tests.helpers.vae_models import random_vae
from training.engine.seeding import VideoNoise
from training.evaluation.rollouts import CONTEXT_STEP, Cast, Student
from training.models.sampling import VideoDecoder

SETTINGS = RolloutConfig(chunk=3, window=9, steps=(1000.0, 500.0), shift=5.0)
SEEDS = (5, 2**31)
NETWORK = random_transformer()
VAE = random_vae(dim=4)
SIZE = (4, 6)


def cast(*seeds: int, latent_frames: int = 18) -> Cast:
    text = random_text().expand(len(seeds), -1, -1)
    return Cast(text=text, seeds=seeds, latent_size=SIZE, latent_frames=latent_frames)


def pictures(student: Student, videos: Cast) -> Tensor:
    with torch.no_grad():
        return torch.cat(list(student.video(videos)), dim=2)


def student(**changes: object) -> Student:
    return Student(**{"network": NETWORK, "vae": VAE, "settings": SETTINGS} | changes)


def inference(seed: int, frames: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Latents as the pack's sampler makes them of a seed."""
    state = RolloutState(config=SETTINGS, seed=seed, model_id="test", shape=(1, NETWORK.config.in_channels, *SIZE))
    rollout = Rollout(NETWORK, state, random_text(), dtype=dtype)
    with torch.no_grad():
        for _ in rollout.run(SETTINGS.chunks_for(frames)):
            pass
    return rollout.state.latents


@pytest.mark.parametrize("seed", SEEDS)
def test_a_video_alone_is_what_inference_makes_of_its_seed_bit_for_bit(seed: int) -> None:
    video = pictures(student(), cast(seed))
    with torch.no_grad():
        expected = VideoDecoder(VAE).push(inference(seed, 18))
    assert video.shape[2] == WAN21.pixel_frames(18)
    assert torch.equal(video, expected)


def test_in_half_precision_a_video_is_what_inference_makes_in_it_and_takes_half_the_cache() -> None:
    videos, peaks = {}, {}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = VideoDecoder(VAE).push(inference(5, 18, torch.bfloat16))
        for dtype in (torch.float32, torch.bfloat16):
            made = student(dtype=dtype)
            videos[dtype] = pictures(made, cast(5))
            rollout = made._rollout(cast(5), made._empty(cast(5)), VideoNoise((5,)))
            list(rollout.run(4))
            peaks[dtype] = rollout.keep_cache().cache.nbytes
    assert torch.equal(videos[torch.bfloat16], expected)
    assert not torch.equal(videos[torch.float32], expected)
    assert peaks[torch.float32] == 2 * peaks[torch.bfloat16]


@pytest.mark.parametrize("changes", [{}, {"overlap": 3}, {"noisy_past": True}], ids=["rolled", "restarted", "noisy"])
def test_a_video_does_not_depend_on_the_videos_made_with_it(changes: dict[str, object]) -> None:
    settings = replace(SETTINGS, context_noise=100.0)
    together = pictures(student(settings=settings, **changes), cast(*SEEDS))
    for index, seed in enumerate(SEEDS):
        alone = pictures(student(settings=settings, **changes), cast(seed))
        torch.testing.assert_close(together[index : index + 1], alone, atol=2e-4, rtol=0)
    assert (together[0] - together[1]).abs().mean() > 1e-2


def test_noise_of_videos_is_that_of_their_seeds_counted_from_the_first_chunk() -> None:
    noise = VideoNoise(SEEDS, first_chunk=4)(2, 1, (2, 3, 2))
    for video, seed in zip(noise, SEEDS, strict=True):
        assert torch.equal(video, SeededNoise(seed)(6, 1, (1, 3, 2))[0])


class Listening:
    """The network, and the inputs that it was told are at one timestep."""

    def __init__(self, timestep: float) -> None:
        self.config = NETWORK.config
        self.embed_text = NETWORK.embed_text
        self._timestep = timestep
        self.heard: list[Tensor] = []

    def __call__(self, x: Tensor, timestep: Tensor, text: object, *, cache: object) -> Tensor:
        if timestep[0, 0].item() == pytest.approx(self._timestep):
            self.heard.append(x.clone())
        return NETWORK(x, timestep, text, cache=cache)


def test_the_noisy_past_is_the_clean_one_diffused_to_its_level_and_told_so() -> None:
    settings = replace(SETTINGS, context_noise=250.0)
    network = Listening(250.0)
    noisy = student(network=network, settings=settings, noisy_past=True)
    rollout = noisy._rollout(cast(7), noisy._empty(cast(7)), VideoNoise((7,)))
    with torch.no_grad():
        chunks = [chunk.latents for chunk in rollout.run(4)]
    assert len(network.heard) == 3, "the last chunk is not passed"
    for number, (clean, heard) in enumerate(zip(chunks, network.heard, strict=False)):
        noise = SeededNoise(7)(3 * number, CONTEXT_STEP, tuple(clean.shape))
        torch.testing.assert_close(heard.double(), 0.75 * clean.double() + 0.25 * noise.double(), atol=1e-6, rtol=0)


def test_a_noisy_past_without_noise_is_the_plain_one() -> None:
    assert torch.equal(pictures(student(noisy_past=True), cast(5)), pictures(student(), cast(5)))


def test_noise_in_the_past_changes_what_comes_after_it_and_not_before() -> None:
    noisy = pictures(student(settings=replace(SETTINGS, context_noise=400.0), noisy_past=True), cast(5))
    plain = pictures(student(), cast(5))
    first = WAN21.pixel_frames(3)
    assert torch.equal(noisy[:, :, :first], plain[:, :, :first])
    assert (noisy[:, :, first:] - plain[:, :, first:]).abs().mean() > 1e-3


def test_a_restart_goes_on_from_a_picture_and_the_frames_after_it() -> None:
    """Two windows by hand: frames 0 to 8, then 9 to 14 after an overlap of 3."""
    video = pictures(student(overlap=3), cast(5, latent_frames=15))
    assert video.shape[2] == WAN21.pixel_frames(15)
    first = inference(5, 9)
    with torch.no_grad():
        shown = VideoDecoder(VAE).push(first)
        assert torch.equal(video[:, :, : shown.shape[2]], shown)

        # The last three latent frames are nine pictures, of which the first begins a video of its own.
        image = to_model_space(VAE.encode(shown[:, :, -9:-8]))
        start = torch.cat([image, first[:, :, -2:]], dim=2)
        state = RolloutState(config=SETTINGS, seed=5, model_id="test", shape=(1, NETWORK.config.in_channels, *SIZE))
        state = state.with_given(start, random_text())
        rollout = Rollout(NETWORK, state, random_text(), noise=VideoNoise((5,), first_chunk=9))
        for _ in rollout.run(2):
            pass
        expected = VideoDecoder(VAE).push(rollout.state.latents)[:, :, 9:]
    assert torch.equal(video[:, :, shown.shape[2] :], expected)


def test_windows_of_a_restarted_video_share_no_noise() -> None:
    """With the same noise and a forgotten past the second window would be the first once more."""
    drawn: list[tuple[int, int]] = []

    class Counting(SeededNoise):
        def __call__(self, chunk: int, step: int, shape: tuple[int, ...]) -> Tensor:
            drawn.append((chunk, step))
            return super().__call__(chunk, step, shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.engine.seeding.SeededNoise", Counting)
        pictures(student(overlap=3), cast(5, latent_frames=27))
    assert len(drawn) == len(set(drawn)) == 2 * 9
