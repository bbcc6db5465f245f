"""The losses of every stage: pure functions, tensors in, scalars out."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def edge_loss(video: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of differences between neighbours, along height, width and time; B C F H W."""
    error = (video - target).float()
    axes = [axis for axis in (2, 3, 4) if error.shape[axis] > 1]
    return sum(error.diff(dim=axis).abs().mean() for axis in axes) / len(axes)


def kl_to_unit_normal(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL divergence of N(mean, exp(logvar)) from the unit normal, in nats, averaged over elements."""
    mean, logvar = mean.float(), logvar.float()
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()


def flow_loss(flow: Tensor, x0: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the predicted flow against noise - x0 (rectified flow, arXiv 2209.03003)."""
    return F.mse_loss(flow.float(), (noise - x0).float())
