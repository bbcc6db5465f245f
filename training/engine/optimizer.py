"""Optimisers and their learning rate.

Muon is momentum whose update is orthogonalised, for matrices and for convolutions read as matrices (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon); the scale that lets it share AdamW's learning rate is Liu et al. 2025 (arXiv
2502.16982). PyTorch's own takes matrices only; a convolutional autoencoder has next to none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import AdamW, Optimizer

from ..config import PRECISIONS, OptimizerConfig
from .checks import ExplosionGuard
from .distributed import whole

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration, from the reference above: steep at zero, so that five steps are enough."""
ITERATIONS = 5
ADAMW_RMS = 0.2
"""Root mean square of a typical AdamW update at learning rate 1 (arXiv 2502.16982)."""


def orthogonalize(matrix: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """About the nearest semi-orthogonal matrix [M, N], computed in `dtype`: every singular value becomes roughly 1."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.T).to(dtype)
    x = x / (x.norm() + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if wide else x.T).to(matrix.dtype)


class Muon(Optimizer):
    """Orthogonalised momentum for parameters of two dimensions or more: rows are the first, columns the others.

    A sharded parameter's momentum is sharded like it. Its update needs the whole matrix, so every process gathers it
    and computes the same.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        """dtype: what the orthogonalisation computes in."""
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: nn.Parameter, group: dict) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
        direction = self._direction(parameter.grad.lerp(momentum, group["momentum"]))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(direction, alpha=-group["lr"])

    def _direction(self, nesterov: Tensor) -> Tensor:
        """The update at learning rate 1, in the shape and with the sharding of the parameter."""
        if isinstance(nesterov, DTensor):
            # Nothing is sent: every process has the whole and cuts its own part out.
            return distribute_tensor(
                self._direction(nesterov.full_tensor()),
                nesterov.device_mesh,
                nesterov.placements,
                src_data_rank=None,
            )
        update = orthogonalize(nesterov.flatten(1), self._dtype)
        return update.mul_(ADAMW_RMS * max(update.shape) ** 0.5).reshape(nesterov.shape)


def rate_factor(step: int, *, steps: int, warmup: int, decay: int) -> float:
    """Share of the highest learning rate at a step: a linear rise, a plateau, a cosine fall to 0 at `steps`."""
    rise = (step + 1) / warmup if step < warmup else 1.0
    left = steps - step
    return rise if left > decay else rise * 0.5 * (1 - math.cos(math.pi * left / (decay + 1)))


class Optimizers:
    """The optimisers of one network, stepped together."""

    def __init__(self, model: nn.Module, config: OptimizerConfig, *, steps: int, guard: ExplosionGuard) -> None:
        self._config = config
        self._steps = steps
        self._parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._members = _build(model, config)
        self._guard = guard

    def step(self, step: int) -> dict[str, float]:
        """Clip the gradients, update the weights, forget the gradients; returns what is worth logging.

        Raises:
            TrainingDiverged: a gradient is NaN or infinite, or gradients have exploded; the weights are as they were.
        """
        config = self._config
        norm = whole(nn.utils.clip_grad_norm_(self._parameters.values(), config.clip)).item()
        self._guard.check(norm)
        rate = config.lr * rate_factor(step, steps=self._steps, warmup=config.warmup, decay=config.decay)
        for member in self._members:
            for group in member.param_groups:
                group["lr"] = rate
            member.step()
            member.zero_grad(set_to_none=True)
        return {"gradient_norm": norm, "learning_rate": rate}

    def moments(self) -> dict[str, dict[str, Tensor]]:
        """Return what the optimisers remember of each parameter, by name; the rest of their state is configuration."""
        found = {}
        for member in self._members:
            found |= {id(parameter): dict(state) for parameter, state in member.state.items()}
        return {name: found[id(parameter)] for name, parameter in self._parameters.items() if id(parameter) in found}

    @property
    def in_doubt(self) -> bool:
        """Return whether the latest gradient was out of proportion, see `ExplosionGuard`; the same in every process."""
        return self._guard.in_doubt

    def norms(self) -> Tensor:
        """Norms of the latest gradients, float64 [updates], by which an explosion is told."""
        return self._guard.state()

    def restore(self, moments: Mapping[str, Mapping[str, Tensor]], norms: Tensor) -> None:
        """Go on from what `moments` and `norms` gave."""
        for member in self._members:
            for group in member.param_groups:
                mine = {id(parameter) for parameter in group["params"]}
                for name, remembered in moments.items():
                    if id(self._parameters[name]) in mine:
                        member.state[self._parameters[name]] = dict(remembered)
        self._guard.restore(norms)


def _build(model: nn.Module, config: OptimizerConfig) -> list[Optimizer]:
    """Muon for the weights of layers if asked for, AdamW for the rest: embeddings, gains, biases, modulations."""
    inner = {id(parameter) for parameter in _layer_weights(model)} if config.muon else set()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rest = [parameter for parameter in trained if id(parameter) not in inner]
    members: list[Optimizer] = [AdamW(rest, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)]
    if inner:
        chosen = [parameter for parameter in trained if id(parameter) in inner]
        dtype = PRECISIONS[config.muon_precision]
        members.append(Muon(chosen, lr=config.lr, weight_decay=config.weight_decay, dtype=dtype))
    return members


def _layer_weights(model: nn.Module) -> list[nn.Parameter]:
    """Weights of linear and convolution layers."""
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return [module.weight for module in model.modules() if isinstance(module, layers) and module.weight.requires_grad]
