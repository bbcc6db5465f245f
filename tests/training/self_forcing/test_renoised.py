"""The parallel pass over a window that was noised again equals the passes of its chunks, one by one, in a rollout."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.flow import NUM_TIMESTEPS, add_noise
from sfpp_core.wan.transformer import WanTransformer
from tests.helpers.models import TINY, random_transformer
from tests.helpers.self_forcing_videos import SEEDS, beginning, drawn, videos
from training.self_forcing.rollouts import RecordedStep, RecordedWindow, estimate, record, roll
from training.self_forcing.samples import denoise_again

STEPS = (1000.0, 500.0)
CONFIGS = {
    "rolls over": RolloutConfig(chunk=2, window=6, steps=STEPS),
    "sink": RolloutConfig(chunk=2, window=5, sink=1, steps=STEPS),
    "large sink": RolloutConfig(chunk=3, window=7, sink=4, steps=STEPS),
    "chunk does not divide the window": RolloutConfig(chunk=3, window=7, steps=STEPS),
    "no past": RolloutConfig(chunk=2, window=2, steps=STEPS),
    "noise in the cache": RolloutConfig(chunk=2, window=6, steps=STEPS, context_noise=50.0),
}
TIMESTEP = 700.0


@pytest.fixture(scope="module")
def network() -> WanTransformer:
    return random_transformer(replace(TINY, num_layers=2))


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def config(request: pytest.FixtureRequest) -> RolloutConfig:
    return request.param


def recorded(network: WanTransformer, config: RolloutConfig, *, prefix: int) -> RecordedWindow:
    start, made = beginning(config, batch=2), videos(*SEEDS)
    return record(network, roll(network, start, made, chunks=prefix), made, chunks=4)


def noise_for(recording: RecordedWindow) -> Tensor:
    return drawn(*recording.after.latents[:, :, recording.before.num_frames :].shape, seed=5)


def one_by_one(network: WanTransformer, recording: RecordedWindow, noise: Tensor, timestep: float) -> Tensor:
    """Each chunk noised and denoised against the rolling cache of the clean ones before it."""
    rollout = recording.videos.rollout(network, recording.before)
    chunks = recording.after.chunks[len(recording.before.chunks) :]
    estimates = []
    for chunk, piece in zip(chunks, noise.split(chunks[0].num_frames, dim=2), strict=True):
        with torch.no_grad():
            past = rollout.past()
        noised = add_noise(chunk.latents, piece, timestep / NUM_TIMESTEPS)
        estimates.append(estimate(network, RecordedStep(noised=noised, timestep=timestep), recording.videos, past))
        rollout.append(chunk.latents)
    return torch.cat(estimates, dim=2)


@pytest.mark.parametrize("prefix", [0, 1, 2, 6])
@torch.no_grad()
def test_one_pass_equals_the_chunks_one_by_one(network: WanTransformer, config: RolloutConfig, prefix: int) -> None:
    recording = recorded(network, config, prefix=prefix)
    noise = noise_for(recording)
    expected = one_by_one(network, recording, noise, TIMESTEP)
    found = denoise_again(network, recording, noise, TIMESTEP)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prefix", [0, 3])
def test_its_gradient_is_that_of_the_chunks_one_by_one(
    network: WanTransformer, config: RolloutConfig, prefix: int
) -> None:
    """So none of it goes through what is clean: the chunks one by one have a cache without gradients."""
    recording = recorded(network, config, prefix=prefix)
    noise, direction = noise_for(recording), drawn(*noise_for(recording).shape, seed=6)
    found = []
    for denoise in (one_by_one, denoise_again):
        (denoise(network, recording, noise, TIMESTEP) * direction).sum().backward()
        found.append({name: weight.grad for name, weight in network.named_parameters()})
        network.zero_grad(set_to_none=True)
    for name, expected in found[0].items():
        tolerance = 1e-4 * expected.abs().max().item()
        torch.testing.assert_close(found[1][name], expected, atol=tolerance, rtol=1e-4, msg=name)
        assert expected.any(), name


@torch.no_grad()
def test_clean_chunks_of_the_window_are_seen(network: WanTransformer) -> None:
    """A chunk feels those before it as the rollout made them, and none after it."""
    recording = recorded(network, CONFIGS["rolls over"], prefix=1)
    noise = noise_for(recording)
    chunks = list(recording.after.chunks)
    chunks[2] = replace(chunks[2], latents=chunks[2].latents + 1)
    changed = replace(recording, after=replace(recording.after, chunks=tuple(chunks)))
    # The noised chunk is to be the same: only the clean one differs.
    sigma = TIMESTEP / NUM_TIMESTEPS
    noise_of_changed = noise.clone()
    noise_of_changed[:, :, 2:4] -= (1 - sigma) / sigma
    found = denoise_again(network, changed, noise_of_changed, TIMESTEP)
    same = denoise_again(network, recording, noise, TIMESTEP)
    torch.testing.assert_close(found[:, :, :4], same[:, :, :4], atol=1e-5, rtol=1e-5)
    assert ((found - same)[:, :, 4:6].abs().amax(dim=(1, 2, 3, 4)) > 1e-2).all()


@torch.no_grad()
def test_it_leaves_the_recording_as_it_was(network: WanTransformer) -> None:
    """It can be taken again, at another timestep, and the videos go on from their own latents."""
    recording = recorded(network, CONFIGS["sink"], prefix=3)
    latents, keys = recording.after.latents, [key.clone() for key in recording.before.cache.keys]
    first = denoise_again(network, recording, noise_for(recording), TIMESTEP)
    denoise_again(network, recording, noise_for(recording), 400.0)
    assert torch.equal(denoise_again(network, recording, noise_for(recording), TIMESTEP), first)
    assert torch.equal(recording.after.latents, latents)
    assert all(torch.equal(key, kept) for key, kept in zip(recording.before.cache.keys, keys, strict=True))
