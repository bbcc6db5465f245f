"""Muon: momentum whose update is orthogonalised, for matrices and for convolutions read as matrices.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon); the scale that lets it share AdamW's learning rate is
Liu et al. 2025 (arXiv 2502.16982). PyTorch's own takes matrices only; a convolutional autoencoder has next to none.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

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
    """For parameters of two dimensions or more; the first is a matrix's rows, the others together its columns.

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
