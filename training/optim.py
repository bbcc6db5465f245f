"""Optimisers and their learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

from .config import OptimizerConfig
from .divergence import require_finite
from .muon import Muon


def rate_factor(step: int, *, steps: int, warmup: int, decay: int) -> float:
    """Share of the highest learning rate at a step: a linear rise, a plateau, a cosine fall to 0 at `steps`."""
    rise = (step + 1) / warmup if step < warmup else 1.0
    left = steps - step
    return rise if left > decay else rise * 0.5 * (1 - math.cos(math.pi * left / (decay + 1)))


class Optimizers:
    """The optimisers of one network, stepped together."""

    def __init__(self, model: nn.Module, config: OptimizerConfig, *, steps: int) -> None:
        self._config = config
        self._steps = steps
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._members = _build(model, config)

    def step(self, step: int) -> dict[str, float]:
        """Clip the gradients, update the weights, forget the gradients; returns what is worth logging.

        Raises:
            TrainingDiverged: a gradient is NaN or infinite; the weights are as they were.
        """
        config = self._config
        norm = nn.utils.clip_grad_norm_(self._parameters, config.clip).item()
        require_finite("the norm of the gradient", norm)
        rate = config.lr * rate_factor(step, steps=self._steps, warmup=config.warmup, decay=config.decay)
        for member in self._members:
            for group in member.param_groups:
                group["lr"] = rate
            member.step()
            member.zero_grad(set_to_none=True)
        return {"gradient_norm": norm, "learning_rate": rate}

    def state(self) -> list[dict[str, Any]]:
        """What `restore` needs."""
        return [member.state_dict() for member in self._members]

    def restore(self, states: Sequence[dict[str, Any]]) -> None:
        """Go on from what `state` gave."""
        for member, state in zip(self._members, states, strict=True):
            member.load_state_dict(state)


def _build(model: nn.Module, config: OptimizerConfig) -> list[Optimizer]:
    """Muon for the weights of layers if asked for, AdamW for the rest: embeddings, gains, biases, modulations."""
    inner = {id(parameter) for parameter in _layer_weights(model)} if config.muon else set()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rest = [parameter for parameter in trained if id(parameter) not in inner]
    members: list[Optimizer] = [AdamW(rest, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)]
    if inner:
        chosen = [parameter for parameter in trained if id(parameter) in inner]
        members.append(Muon(chosen, lr=config.lr, weight_decay=config.weight_decay))
    return members


def _layer_weights(model: nn.Module) -> list[nn.Parameter]:
    """Weights of linear and convolution layers."""
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return [module.weight for module in model.modules() if isinstance(module, layers) and module.weight.requires_grad]
