"""The losses of flow matching, the teacher's and the causal student's, against the definition in float64.

A straight line leads from a clip x0 to noise, x = (1 - s) x0 + s noise. The network is shown x, is told s as the
timestep 1000 s, and is asked for the velocity along the line, noise - x0 = (x - x0) / s. So what a network was shown
and told says what it should have been asked for, whatever was drawn and however.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.rollout import Rollout
from sfpp_core.rollout.state import RolloutState
from sfpp_core.tiny.family import weights_path
from sfpp_core.wan.attention import sdpa_attention
from sfpp_core.wan.transformer import WanTransformer
from tests.helpers.case_configs import config_of
from tests.helpers.models import random_transformer
from tests.helpers.network_calls import Call, calls_of
from tests.helpers.normal_law import RARE, assert_all_uncorrelated, assert_standard_normal, assert_uncorrelated
from tests.helpers.stage_cases import MODEL, write_files
from training.causal_init.data import CausalPass, TextsOnDemand
from training.causal_init.flow import FlowConfig, FlowObjective
from training.data.clips import LatentClips
from training.stages import teacher
from training.stages.teacher import TeacherTask

Numbers = NDArray[np.float64]


def exact(tensor: Tensor) -> Numbers:
    return tensor.detach().double().numpy()


def by_frame(levels: Numbers) -> Numbers:
    """[B, T] against B C T H W."""
    return levels[:, None, :, None, None]


def flow_matching_loss(flow: Numbers, x: Numbers, x0: Numbers, levels: Numbers) -> float:
    """The mean squared error of the velocity; levels: s, [B, T]."""
    return float(np.mean((flow - (x - x0) / by_frame(levels)) ** 2))


def noise_in(x: Numbers, x0: Numbers, levels: Numbers) -> Tensor:
    s = by_frame(levels)
    return torch.from_numpy((x - (1 - s) * x0) / s)


def before_shift(levels: Numbers, shift: float) -> Numbers:
    """U of s = shift u / (1 + (shift - 1) u)."""
    return levels / (shift - (shift - 1) * levels)


def shifted(step: float, shift: float) -> float:
    """The timestep that a step stands for."""
    return 1000 * shift * (step / 1000) / (1 + (shift - 1) * step / 1000)


# The teacher


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> TeacherTask:
    """Of random weights, its head and its unknown words too, which begin as zeros."""
    here = tmp_path_factory.mktemp("here")
    write_files(here)
    made = TeacherTask(config_of("teacher", teacher.TeacherStageConfig, here))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


def test_the_teachers_loss_and_gradient_are_those_of_flow_matching(task: TeacherTask) -> None:
    batch = task.batch(3)
    with calls_of(task.model) as calls:
        loss = task.loss(batch, 3)
    ((x, timestep, tokens),) = (call.inputs for call in calls)
    assert torch.equal(tokens, batch.tokens) and torch.equal(timestep, timestep[:, :1].expand_as(timestep))

    model = copy.deepcopy(task.model).double()
    model.transformer.attention = sdpa_attention
    flow = model(x.double(), timestep.double(), tokens)
    levels = exact(timestep) / 1000
    expected = flow_matching_loss(exact(flow), exact(x), exact(batch.latents), levels)
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)

    # d loss / d flow by hand; the chain rule from there on is not this loss's.
    velocity = (exact(x) - exact(batch.latents)) / by_frame(levels)
    flow.backward(torch.from_numpy(2 * (exact(flow) - velocity) / velocity.size))
    loss.total.backward()
    for (name, mine), reference in zip(task.model.named_parameters(), model.parameters(), strict=True):
        largest = reference.grad.abs().max().item()
        torch.testing.assert_close(mine.grad.double(), reference.grad, atol=1e-4 * largest, rtol=0, msg=name)
    task.model.zero_grad()


def test_the_teachers_levels_are_one_a_stratum_then_shifted_and_its_noise_is_normal(task: TeacherTask) -> None:
    noises, within = [], []
    for step in range(30):
        batch = task.batch(step)
        with calls_of(task.model) as calls, torch.no_grad():
            task.loss(batch, step)
        x, timestep, _ = calls[0].inputs
        levels, count = exact(timestep) / 1000, len(x)
        noises.append(noise_in(exact(x), exact(batch.latents), levels))
        strata = before_shift(levels[:, 0], shift=4.0) * count
        assert sorted(np.floor(strata).astype(int)) == list(range(count)), "one in each of as many equal parts"
        within.extend(strata % 1)
    assert_standard_normal(torch.cat(noises))
    assert_all_uncorrelated([clip for noise in noises for clip in noise])
    assert stats.kstest(within, "uniform").pvalue > RARE


# The causal student

ROLLOUT = RolloutConfig(
    chunk=2, window=5, sink=1, steps=(1000.0, 500.0), first_chunk_steps=(1000.0, 750.0, 250.0), context_noise=50.0
)
FRAMES, CHUNKS, BATCH, SHIFT = 6, 3, 4, 5.0
NUM_PAST = FRAMES - ROLLOUT.chunk
LAST = shifted(ROLLOUT.steps[-1], SHIFT)

MakeObjective = Callable[..., FlowObjective]


@pytest.fixture(scope="module")
def network() -> WanTransformer:
    return random_transformer(replace(MODEL, num_layers=2), seed=1)


@pytest.fixture(scope="module")
def objective(network: WanTransformer) -> MakeObjective:
    """Makes the objective on three random clips."""
    latents = torch.randn(3, 16, FRAMES, 4, 4, generator=torch.Generator().manual_seed(2))
    clips = LatentClips(latents, [["a red ball"], ["a blue boat"], ["snow"]])
    texts = TextsOnDemand(str(weights_path("text_encoder")))

    def make(**settings: float) -> FlowObjective:
        causal, how = CausalPass(ROLLOUT, frames=FRAMES), FlowConfig(**settings)
        return FlowObjective(network, causal, clips, texts, rollout=ROLLOUT, settings=how, seed=5, batch=BATCH)

    return make


def shown(call: Call) -> tuple[Tensor, Tensor, Numbers]:
    """The past that a student was shown, the noised clip, and its levels s [B, T]."""
    both, timestep = call.inputs[:2]
    assert torch.all(timestep[:, :NUM_PAST] == ROLLOUT.context_noise), "the past is told the context's timestep"
    levels = exact(timestep[:, NUM_PAST:]) / 1000
    chunks = levels.reshape(BATCH, CHUNKS, ROLLOUT.chunk)
    assert (chunks == chunks[:, :, :1]).all(), "a chunk is at one level"
    return both[:, :, :NUM_PAST], both[:, :, NUM_PAST:], levels


@torch.no_grad()
def flow_in_a_rollout(network: WanTransformer, past: Tensor, x: Tensor, levels: Numbers, text: Tensor) -> Numbers:
    """The flow of every chunk of x as a rollout would predict it, had it made the past: in float64, one by one."""
    double = copy.deepcopy(network).double()
    state = RolloutState(config=ROLLOUT, seed=0, model_id="random", shape=(BATCH, 16, 4, 4))
    rollout = Rollout(double, state, text, dtype=torch.float64)
    flows = []
    for first in range(0, FRAMES, ROLLOUT.chunk):
        frames = slice(first, first + ROLLOUT.chunk)
        timestep = 1000 * torch.from_numpy(levels[:, frames])
        flows.append(double(x[:, :, frames].double(), timestep, text.double(), cache=rollout.past()))
        if frames.stop < FRAMES:
            rollout.append(past[:, :, frames])
    return torch.cat(flows, dim=2).numpy()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_flow_objective_is_flow_matching_given_the_true_past(
    network: WanTransformer, objective: MakeObjective, share: float
) -> None:
    flows = objective(student_timesteps=share, own_past=0.0)
    batch = flows.batch(7)
    with calls_of(network) as calls:
        loss = flows.loss(batch, 7)
    (call,) = calls
    past, x, levels = shown(call)
    assert torch.equal(past, batch.clips[:, :, :NUM_PAST])
    flow = flow_in_a_rollout(network, past, x, levels, batch.text)
    expected = flow_matching_loss(flow, exact(x), exact(batch.clips), levels)
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)
    assert loss.parts["true_past"].item() == loss.total.item() and len(loss.parts) == 1


def test_the_flow_objective_is_flow_matching_given_the_students_own_past(
    network: WanTransformer, objective: MakeObjective
) -> None:
    """Its own estimate of the clips: x0 at its last timestep, from other noise, given the true past."""
    flows = objective(student_timesteps=0.5, own_past=1.0)
    batch = flows.batch(3)
    with calls_of(network) as calls:
        loss = flows.loss(batch, 3)
    true_past, guessed_from, last = shown(calls[0])
    assert torch.equal(true_past, batch.clips[:, :, :NUM_PAST])
    np.testing.assert_allclose(last, LAST / 1000, rtol=1e-6)
    flow = flow_in_a_rollout(network, true_past, guessed_from, last, batch.text)
    estimate = exact(guessed_from) - by_frame(last) * flow

    past, x, levels = shown(calls[1])
    np.testing.assert_allclose(exact(past), estimate[:, :, :NUM_PAST], atol=1e-4)
    expected = flow_matching_loss(
        flow_in_a_rollout(network, past, x, levels, batch.text), exact(x), exact(batch.clips), levels
    )
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)
    clips = exact(batch.clips)
    assert_uncorrelated(noise_in(exact(x), clips, levels), noise_in(exact(guessed_from), clips, last))


@torch.no_grad()
def test_chunks_are_at_the_students_timesteps_as_often_as_told_and_else_anywhere(
    network: WanTransformer, objective: MakeObjective
) -> None:
    share, noises, seen = 0.6, [], []
    flows = objective(student_timesteps=share, own_past=0.0)
    for step in range(80):
        batch = flows.batch(step)
        with calls_of(network) as calls:
            flows.loss(batch, step)
        _, x, levels = shown(calls[0])
        noises.append(noise_in(exact(x), exact(batch.clips), levels))
        seen.append(levels[:, :: ROLLOUT.chunk])
    assert_standard_normal(torch.cat(noises))
    assert_all_uncorrelated([clip for noise in noises for clip in noise])

    timesteps, anywhere, hits = 1000 * np.concatenate(seen), [], 0
    for own, found in ((ROLLOUT.first_chunk_steps, timesteps[:, :1]), (ROLLOUT.steps, timesteps[:, 1:])):
        distances = np.abs(found.reshape(-1, 1) - [shifted(step, SHIFT) for step in own])
        is_own = distances.min(axis=1) < 1e-3
        counts = np.bincount(distances[is_own].argmin(axis=1), minlength=len(own))
        assert stats.chisquare(counts).pvalue > RARE, "each of its timesteps equally often"
        anywhere.extend(before_shift(found.reshape(-1)[~is_own] / 1000, SHIFT))
        hits += int(is_own.sum())
    assert abs(hits / timesteps.size - share) < 5 * np.sqrt(share * (1 - share) / timesteps.size)
    assert stats.kstest(anywhere, "uniform").pvalue > RARE
