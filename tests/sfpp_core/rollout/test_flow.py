"""Noise levels, steps and seeds."""

from __future__ import annotations

import pytest
import torch

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.flow import MAX_SEED, SeededNoise, add_noise, flow_to_x0, shift_sigma, warp_steps


def test_the_published_steps() -> None:
    assert warp_steps((1000, 750, 500, 250), 5.0) == pytest.approx((1000, 937.5, 2500 / 3, 625), abs=1e-9)
    assert warp_steps((700, 300), 1.0) == pytest.approx((700, 300))
    assert RolloutConfig().timesteps == warp_steps((1000, 750, 500, 250), 5.0)


def test_shifting_tensors_equals_shifting_numbers() -> None:
    sigmas = torch.linspace(0, 1, 7, dtype=torch.float64)
    assert shift_sigma(sigmas, 5.0).tolist() == pytest.approx([shift_sigma(s, 5.0) for s in sigmas.tolist()])


@pytest.mark.parametrize("sigma", [0.02, 0.5, 0.9375, 1.0])
def test_the_true_flow_leads_back_to_x0(sigma: float) -> None:
    x0, noise = torch.randn(2, 1000)
    torch.testing.assert_close(flow_to_x0(add_noise(x0, noise, sigma), noise - x0, sigma), x0, atol=1e-6, rtol=1e-5)


def test_noise_is_a_function_of_seed_chunk_and_step_alone() -> None:
    noise = SeededNoise(7)
    first = noise(3, 1, (2, 4, 5))
    noise(9, 2, (50,))
    torch.manual_seed(0)
    assert torch.equal(SeededNoise(7)(3, 1, (2, 4, 5)), first)
    others = [SeededNoise(8)(3, 1, (2, 4, 5)), noise(4, 1, (2, 4, 5)), noise(3, 2, (2, 4, 5)), noise(31, 1, (2, 4, 5))]
    assert not any(torch.equal(other, first) for other in others)


def test_noise_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    SeededNoise(MAX_SEED)(0, 0, (100,))
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_is_unit_normal_and_independent_between_steps() -> None:
    draws = torch.stack([SeededNoise(1)(0, step, (20_000,)) for step in range(4)])
    assert draws.mean(1).abs().max() < 0.03
    assert (draws.std(1) - 1).abs().max() < 0.02
    assert (torch.corrcoef(draws) - torch.eye(4)).abs().max() < 0.03


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_seeds_out_of_range_are_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=f"seed is {seed}"):
        SeededNoise(seed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chunk": 0}, "chunk is 0"),
        ({"window": 2}, "window is 2.*at least 3"),
        ({"window": 5, "sink": 3}, "at least 6"),
        ({"sink": -1}, "sink is -1"),
        ({"steps": ()}, "steps is empty"),
        ({"steps": (500.0, 750.0)}, "must fall"),
        ({"steps": (1200.0, 500.0)}, "at most 1000"),
        ({"steps": (1000.0, 0.0)}, "above 0"),
        ({"steps": (1000.0, float("nan"))}, "must fall"),
        ({"first_chunk_steps": (500.0, 750.0)}, "first_chunk_steps are 500, 750; they must fall"),
        ({"shift": 0.0}, "shift is 0"),
        ({"shift": float("nan")}, "shift is nan"),
        ({"context_noise": -1.0}, "context_noise is -1"),
    ],
)
def test_impossible_settings_are_refused_in_a_sentence(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RolloutConfig(**change)


@pytest.mark.parametrize(
    ("config", "latent_frames", "made", "chunks"),
    [
        (RolloutConfig(), 21, 0, 7),
        (RolloutConfig(), 22, 0, 8),
        (RolloutConfig(), 21, 21, 0),
        (RolloutConfig(), 22, 1, 7),
        (RolloutConfig(chunk=1), 21, 0, 21),
        (RolloutConfig(independent_first=True), 22, 0, 8),
    ],
)
def test_chunks_for_a_length(config: RolloutConfig, latent_frames: int, made: int, chunks: int) -> None:
    assert config.chunks_for(latent_frames, made=made) == chunks
