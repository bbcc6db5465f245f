"""Small students and videos that the tests of Self-Forcing share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.rollout import Rollout
from sfpp_core.rollout.state import RolloutState
from sfpp_core.wan.transformer import WanTransformer
from tests.helpers.models import LATENT_HEIGHT, LATENT_WIDTH, TINY, random_text
from training.engine.seeding import VideoNoise
from training.self_forcing.config import SfppStageConfig
from training.self_forcing.rollouts import RecordedStep, RolloutInputs
from training.self_forcing.task import SelfForcingTask

CPU = torch.device("cpu")
SEEDS = (11, 12)


def videos(*seeds: int, text: Tensor | None = None) -> RolloutInputs:
    """One video a seed, each with a text of its own unless one is given."""
    texts = torch.cat([random_text(seed=seed) for seed in seeds]) if text is None else text
    return RolloutInputs(text=texts, noise=VideoNoise(seeds), device=CPU, dtype=torch.float32)


def beginning(config: RolloutConfig, *, batch: int = 1, seed: int = 0) -> RolloutState:
    """Videos with no frame yet."""
    shape = (batch, TINY.in_channels, LATENT_HEIGHT, LATENT_WIDTH)
    return RolloutState(config=config, seed=seed, model_id="random", shape=shape)


@torch.inference_mode()
def inferred(network: WanTransformer, config: RolloutConfig, *, seed: int, chunks: int) -> Tensor:
    """The video of a seed as inference makes it, knowing nothing of training."""
    rollout = Rollout(network, beginning(config, seed=seed), random_text(seed=seed))
    for _ in rollout.run(chunks):
        pass
    return rollout.state.latents


def chain(step: RecordedStep | None) -> list[RecordedStep]:
    """A recorded step with those before it, in the order of denoising."""
    return [] if step is None else [*chain(step.before), step]


def gradients_of_a_step(config: SfppStageConfig) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Metrics of a step and the gradients of its last updates, with the weights as they were."""
    task = SelfForcingTask(config, stage="sfpp")
    gradients: dict[str, Tensor] = {}
    for key, trained in task.networks.items():

        def keep(step: int, key: str = key, network: nn.Module = trained.network) -> dict[str, float]:
            for name, weight in network.named_parameters():
                gradients[f"{key} {name}"], weight.grad = weight.grad, None
            return {}

        trained.update = keep
    # Past the ramp, and in videos that go on their second window.
    task.train_step(None, 3)
    return task.train_step(None, 4), gradients


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Unit normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
