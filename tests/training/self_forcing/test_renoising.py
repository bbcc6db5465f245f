"""What noise is put on estimates and on finished windows, and how much: x = (1 - s) x0 + s noise at timestep 1000 s.

A rollout re-noises with the noise of its seed, chunk and step; the renoised reading of training noises a finished
window to one of the student's timesteps. Both are read off what the network is shown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.flow import SeededNoise
from sfpp_core.rollout.rollout import CallProgress, Rollout
from sfpp_core.rollout.state import RolloutState
from sfpp_core.wan.transformer import WanTransformer
from tests.helpers.case_configs import config_of
from tests.helpers.models import LATENT_HEIGHT, LATENT_WIDTH, TINY, random_text, random_transformer
from tests.helpers.network_calls import Call, calls_of
from tests.helpers.normal_law import assert_all_uncorrelated, assert_standard_normal, assert_uncorrelated
from tests.helpers.stage_cases import MODEL, write_files
from training.data.prompt_embeds import Conditioning
from training.models.open import open_autoencoder
from training.self_forcing.samples import WindowSampler
from training.stages import sfpp

ROUNDING = 2.0**-22
"""Of a sum of two products in float32, relative to their sizes: three roundings of at most 2^-24, and s itself."""
SEED, BATCH = 11, 2
CONFIGS = {
    "as published": RolloutConfig(chunk=3, window=9),
    "first chunk of its own": RolloutConfig(
        chunk=1, window=4, steps=(1000.0, 600.0), first_chunk_steps=(1000.0, 700.0, 400.0), shift=3.0
    ),
    "begins below 1000": RolloutConfig(chunk=2, window=6, steps=(900.0, 450.0, 90.0), shift=1.0),
    "noise told to the cache": RolloutConfig(chunk=3, window=9, sink=3, context_noise=50.0),
    "first frame alone": RolloutConfig(chunk=3, window=8, independent_first=True),
}


def schedule(steps: tuple[float, ...], shift: float) -> list[float]:
    """Timesteps: t / 1000 = shift u / (1 + (shift - 1) u) for a step 1000 u."""
    return [1000 * shift * (step / 1000) / (1 + (shift - 1) * step / 1000) for step in steps]


def assert_equal_to_rounding(found: Tensor, x0: Tensor, noise: Tensor, s: float) -> None:
    """Found is (1 - s) x0 + s noise, every number of it, as exactly as float32 can say it."""
    clean, noisy = (1 - s) * x0.double(), s * noise.double()
    assert found.dtype == torch.float32
    assert ((found.double() - (clean + noisy)).abs() <= ROUNDING * (clean.abs() + noisy.abs())).all()


# In a rollout


def empty_videos(config: RolloutConfig, *, seed: int = SEED) -> RolloutState:
    shape = (BATCH, TINY.in_channels, LATENT_HEIGHT, LATENT_WIDTH)
    return RolloutState(config=config, seed=seed, model_id="random", shape=shape)


@torch.inference_mode()
def rolled(state: RolloutState, *pieces: int, given: int = 0) -> tuple[RolloutState, list[CallProgress]]:
    """Videos with so many more chunks, made in pieces, and what was told of their denoising."""
    if given:
        start = torch.randn(*state.shape[:2], given, *state.shape[2:], generator=torch.Generator().manual_seed(1))
        state = state.with_given(start, random_text())
    calls: list[CallProgress] = []
    for chunks in pieces:
        rollout = Rollout(random_transformer(), state, random_text(), on_call=calls.append)
        list(rollout.run(chunks))
        state = rollout.state
    return state, [call for call in calls if call.noised is not None]


def by_chunk(calls: list[CallProgress]) -> dict[int, list[CallProgress]]:
    """A chunk's calls, in order."""
    return {chunk: [call for call in calls if call.chunk == chunk] for chunk in sorted({call.chunk for call in calls})}


@pytest.mark.parametrize("given", [0, 4])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_every_step_is_shown_the_last_estimate_with_the_noise_of_its_seed_chunk_and_step(
    config: RolloutConfig, given: int
) -> None:
    """Also of a video that goes on from another run, and from given frames."""
    state, calls = rolled(empty_videos(config), 2, 2, given=given)
    chunks = by_chunk(calls)
    first = len(state.chunks) - 4
    assert list(chunks) == [first, first + 1, first + 2, first + 3]
    for chunk, steps in chunks.items():
        own = config.first_chunk_steps if chunk == first and config.first_chunk_steps else config.steps
        assert [call.timestep for call in steps] == pytest.approx(schedule(own, config.shift), rel=1e-12)
        noises = [SeededNoise(SEED)(chunk, step, tuple(steps[0].noised.shape)) for step in range(len(steps))]
        assert torch.equal(steps[0].noised, noises[0]), "a chunk begins as noise alone"
        for number, (call, following) in enumerate(pairwise(steps), start=1):
            assert_equal_to_rounding(following.noised, call.x0, noises[number], following.timestep / 1000)
        assert torch.equal(steps[-1].x0, state.chunks[chunk].latents)


@torch.inference_mode()
def test_an_estimate_is_the_end_of_the_flow_and_the_past_is_shown_without_noise() -> None:
    """Whatever timestep the network is told."""
    config = CONFIGS["noise told to the cache"]
    network, calls = random_transformer(), []
    rollout = Rollout(network, empty_videos(config), random_text(), on_call=calls.append)
    with calls_of(network) as shown:
        list(rollout.run(3))
    assert len(shown) == len(calls) == 3 * 4 + 2
    finished = iter(rollout.state.chunks)
    for call, told in zip(shown, calls, strict=True):
        x, timestep = call.inputs[:2]
        assert torch.all(timestep == told.timestep)
        if told.noised is None:
            assert torch.equal(x, next(finished).latents) and told.timestep == config.context_noise
        else:
            assert torch.equal(x, told.noised)
            end = x.double() - told.timestep / 1000 * call.output.double()
            torch.testing.assert_close(told.x0.double(), end, atol=1e-6, rtol=1e-6)


def test_noise_on_estimates_has_exactly_the_normal_law() -> None:
    """Mean (1 - s) x0 and variance s^2 at every step, independent of estimate, other steps, chunks and videos."""
    config = CONFIGS["as published"]
    noises: list[Tensor] = []
    by_step: dict[float, list[tuple[Tensor, Tensor]]] = {timestep: [] for timestep in config.timesteps[1:]}
    for seed in range(3):
        for steps in by_chunk(rolled(empty_videos(config, seed=seed), 4)[1]).values():
            noises.append(steps[0].noised)
            for call, following in pairwise(steps):
                by_step[following.timestep].append((following.noised.double(), call.x0.double()))
    for timestep, pairs in by_step.items():
        s, (noised, x0) = timestep / 1000, (torch.stack(each) for each in zip(*pairs, strict=True))
        off = noised - (1 - s) * x0
        assert off.var().item() == pytest.approx(s**2, rel=5 * math.sqrt(2 / off.numel()))
        law = Normal((1 - s) * x0, s)
        # A value's log-density is -(entropy) on average and deviates by sqrt(1/2).
        surprise = law.log_prob(noised).mean() + law.entropy().mean()
        assert abs(surprise.item()) < 5 * math.sqrt(0.5 / off.numel())
        assert_uncorrelated(off, x0)
        noises.extend(off / s)
    assert_standard_normal(torch.stack(noises))
    assert_all_uncorrelated(noises)


# In training, of a finished window

STEPS = (1000.0, 750.0, 500.0, 250.0)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Renoised:
    """A window that was noised again, and the call that denoised it."""

    finished: Tensor
    """As the rollout made it, [B, C, T, H, W]."""
    noised: Tensor
    timestep: float
    flow: Tensor
    x0: Tensor
    """What is judged."""

    @property
    def s(self) -> float:
        return self.timestep / 1000

    @property
    def noise(self) -> Tensor:
        return (self.noised.double() - (1 - self.s) * self.finished.double()) / self.s


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("here")
    write_files(folder)
    return folder


def renoised_windows(here: Path, *words: str, count: int) -> list[Renoised]:
    """The windows of so many steps."""
    settings = config_of("sfpp streaming", sfpp.SfppStageConfig, here, f"student.steps={list(STEPS)}", *words)
    sampler = WindowSampler(
        settings,
        Conditioning.open(settings.conditioning, device=settings.device),
        open_autoencoder(settings.vae),
        samples=range(settings.batch),
        channels=MODEL.in_channels,
    )
    network = random_transformer(MODEL, seed=1)
    return [_renoised(sampler, network, step) for step in range(count)]


def _renoised(sampler: WindowSampler, network: WanTransformer, step: int) -> Renoised:
    with calls_of(network) as calls:
        sample = sampler.sample(network, step, "student")
    call: Call = calls[-1]
    x, timestep = call.inputs[:2]
    recording = sample.rolled.recording
    finished = recording.after.latents[:, :, recording.before.num_frames :]
    # The clean chunks lie before the noised ones.
    frames = slice(x.shape[2] - recording.num_frames, None)
    assert torch.equal(x[:, :, : frames.start], finished[:, :, : frames.start]), "what is past is not noised"
    told = timestep[:, frames].unique()
    assert len(told) == 1, "a window is at one level"
    return Renoised(
        finished=finished,
        noised=x[:, :, frames],
        timestep=told.item(),
        flow=call.output[:, :, frames],
        x0=sample.x0.detach(),
    )


@pytest.mark.parametrize("history", ["streaming", "restart"])
def test_a_window_is_noised_to_any_of_the_students_timesteps_by_standard_normal_noise(here: Path, history: str) -> None:
    windows = renoised_windows(here, "gradient_step=random", f"history={history}", count=16)
    timesteps = np.array(schedule(STEPS, shift=5.0))
    which = [int(np.abs(timesteps - window.timestep).argmin()) for window in windows]
    np.testing.assert_allclose([window.timestep for window in windows], timesteps[which], rtol=1e-6)
    assert set(which) == set(range(len(STEPS)))
    assert {window.finished.shape[2] for window in windows} == ({3, 6} if history == "streaming" else {6})

    assert_standard_normal(torch.cat([window.noise.flatten() for window in windows]))
    videos = [video for window in windows for video in window.noise]
    assert_all_uncorrelated(videos)
    for number, timestep in enumerate(timesteps):
        mine = [window for window, drawn in zip(windows, which, strict=True) if drawn == number]
        s, off = timestep / 1000, torch.cat([(window.s * window.noise).flatten() for window in mine])
        finished = torch.cat([window.finished.flatten() for window in mine])
        assert off.var().item() == pytest.approx(s**2, rel=5 * math.sqrt(2 / off.numel()))
        assert_uncorrelated(off, finished)
        law = Normal((1 - s) * finished.double(), s)
        noised = torch.cat([window.noised.flatten() for window in mine]).double()
        surprise = law.log_prob(noised).mean() + law.entropy().mean()
        assert abs(surprise.item()) < 5 * math.sqrt(0.5 / off.numel())


def test_the_last_step_means_the_students_last_timestep_and_what_is_judged_is_the_end_of_the_flow(here: Path) -> None:
    for window in renoised_windows(here, "gradient_step=last", count=3):
        assert window.timestep == pytest.approx(schedule(STEPS, shift=5.0)[-1], rel=1e-6)
        expected = window.noised.double() - window.s * window.flow.double()
        torch.testing.assert_close(window.x0.double(), expected, atol=1e-6, rtol=1e-6)
