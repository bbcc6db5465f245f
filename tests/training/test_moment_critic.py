"""A critic that is told the moment of a clip tells the moments apart; one that is not learns their mixture."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sfpp_core.wan.config import WanConfig
from sfpp_core.wan.transformer import WanTransformer
from tests.core.models import random_transformer
from training.dmd import DMDConfig, FlowNetwork, critic_loss, dmd_gradient, score, score_sigmas
from training.self_forcing.moment_critic import MomentCritic, critic_at

MODEL = WanConfig(dim=128, ffn_dim=64, num_heads=1, num_layers=1, text_dim=16, freq_dim=32)
SHAPE = (4, 16, 3, 2, 2)
TEXT = torch.zeros(4, 8, 16)
EVERY_FRAME = torch.ones(1, 1, 3, 1, 1, dtype=torch.bool)
BRIGHT, DARK = 0, 210
"""Latent frames: films begin bright, and are dark by then."""
LEVEL = {BRIGHT: 0.5, DARK: -0.5}


def network() -> WanTransformer:
    return random_transformer(MODEL, seed=3)


def noise(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def clips(start: int, seed: int) -> Tensor:
    return LEVEL[start] + 0.05 * noise(seed)


def trained(critic: nn.Module, updates: int = 200) -> nn.Module:
    """A critic of films whose moments come in turn, each for itself, as windows of a streaming run do."""
    optimizer = torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.0, 0.95))
    for update in range(updates):
        start = (BRIGHT, DARK)[update % 2]
        x0 = clips(start, 2 * update)
        sigma = score_sigmas(DMDConfig(), 1, "critic", update, samples=range(4))
        loss = critic_loss(critic_at(critic, start, x0), x0, noise(2 * update + 1), sigma, TEXT, EVERY_FRAME)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return critic


@pytest.fixture(scope="module")
def told() -> nn.Module:
    return trained(MomentCritic(network()))


@pytest.fixture(scope="module")
def untold() -> nn.Module:
    return trained(network())


def level_seen(critic: FlowNetwork, start: int) -> float:
    """Mean of what a critic takes nothing but noise for."""
    x0 = clips(start, 10_001)
    with torch.no_grad():
        seen = score(critic_at(critic, start, x0), noise(10_000), torch.full((4,), 0.98), TEXT)
    return seen.mean().item()


def test_a_fresh_one_is_the_network_itself_at_every_moment() -> None:
    alone = network()
    x, timestep, text = noise(5), torch.full((4, 3), 700.0), torch.randn(4, 8, 16)
    told = MomentCritic(network())
    for start in (0, 3, 417):
        assert torch.equal(critic_at(told, start, x)(x, timestep, text), alone(x, timestep, text))


def test_a_critic_that_is_not_told_is_asked_as_it_is() -> None:
    alone = network()
    assert critic_at(alone, 210, noise(5)) is alone


def test_told_it_knows_every_moment_and_not_told_only_one_for_all(told: nn.Module, untold: nn.Module) -> None:
    assert level_seen(told, BRIGHT) == pytest.approx(0.5, abs=0.2)
    assert level_seen(told, DARK) == pytest.approx(-0.5, abs=0.2)
    assert level_seen(untold, BRIGHT) == level_seen(untold, DARK)


def test_moments_on_both_sides_of_the_teachers_are_both_drawn_to_it_if_the_critic_is_told(
    told: nn.Module, untold: nn.Module
) -> None:
    """The teacher's clips are at 0, between the two; distribution matching has to pull from both sides."""

    def push(critic: nn.Module, start: int, teacher: Callable[[Tensor], Tensor] = torch.zeros_like) -> float:
        x0, sigma = clips(start, 10_003), torch.full((4,), 0.98)
        with torch.no_grad():
            fake = score(critic_at(critic, start, x0), noise(10_002), sigma, TEXT)
        return -dmd_gradient(x0, teacher(x0), fake).mean().item()

    assert push(told, BRIGHT) < -0.5 and push(told, DARK) > 0.5
    # After a dark window even the bright one is thought to be dark, and pushed away from it.
    assert push(untold, BRIGHT) > 0
