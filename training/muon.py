"""Muon: momentum whose update is orthogonalised, for matrices and for convolutions read as matrices.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon); the scale that lets it share AdamW's learning rate is
Liu et al. 2025 (arXiv 2502.16982). PyTorch's own takes matrices only; a convolutional autoencoder has next to none.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration, from the reference above: steep at zero, so that five steps are enough."""
ITERATIONS = 5
ADAMW_RMS = 0.2
"""Root mean square of a typical AdamW update at learning rate 1 (arXiv 2502.16982)."""


def orthogonalize(matrix: Tensor) -> Tensor:
    """About the nearest semi-orthogonal matrix [M, N]: every singular value becomes roughly 1."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.T).to(torch.bfloat16)
    x = x / (x.norm() + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if wide else x.T).to(matrix.dtype)


class Muon(Optimizer):
    """For parameters of two dimensions or more; the first is a matrix's rows, the others together its columns."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

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
        nesterov = parameter.grad.lerp(momentum, group["momentum"])
        update = orthogonalize(nesterov.flatten(1))
        scale = ADAMW_RMS * max(update.shape) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update.reshape(parameter.shape), alpha=-group["lr"] * scale)
