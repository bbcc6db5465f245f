"""The rollout outside of `torch.no_grad`: the same video, a past without gradient, and gradients that can be used."""

from __future__ import annotations

import torch
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.rollout import CallProgress, Rollout
from sfpp_core.rollout.state import RolloutState
from tests.helpers.models import LATENT_HEIGHT, LATENT_WIDTH, TINY, random_text, random_transformer

CONFIG = RolloutConfig(chunk=2, window=5, sink=1, steps=(1000.0, 500.0))
NUM_CHUNKS = 4


def roll_out(network: torch.nn.Module) -> tuple[Tensor, list[Tensor]]:
    """The video, and the last estimate of each chunk."""
    estimates: dict[int, Tensor] = {}

    def remember(progress: CallProgress) -> None:
        if progress.x0 is not None:
            estimates[progress.chunk] = progress.x0

    shape = (1, TINY.in_channels, LATENT_HEIGHT, LATENT_WIDTH)
    state = RolloutState(config=CONFIG, seed=3, model_id="random", shape=shape)
    rollout = Rollout(network, state, random_text(), on_call=remember)
    for _ in rollout.run(NUM_CHUNKS):
        pass
    return rollout.state.latents, list(estimates.values())


def test_gradients_do_not_change_the_video() -> None:
    """A past that was not written because gradients were on would be zeros, silently."""
    with torch.no_grad():
        expected, _ = roll_out(random_transformer())
    assert torch.equal(roll_out(random_transformer())[0], expected)


def test_every_chunk_can_be_trained_on_after_the_rollout_went_on() -> None:
    network = random_transformer()
    _, estimates = roll_out(network)
    torch.stack([estimate.square().mean() for estimate in estimates]).sum().backward()
    assert all(weight.grad is not None for weight in network.blocks.parameters()), "the text's keys included"


def test_queries_can_be_trained_alone() -> None:
    """As by a LoRA on them: the keys then have no gradient, but the queries' gradient needs them unchanged."""
    network = random_transformer().requires_grad_(False)
    query = network.blocks[0].self_attn.q.requires_grad_(True)
    _, estimates = roll_out(network)
    estimates[1].square().mean().backward()
    assert query.weight.grad.abs().sum() > 0
