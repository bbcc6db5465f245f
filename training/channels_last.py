"""Memory formats: convolutions over video run several times faster on a CPU when channels lie side by side."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def channels_last(x: Tensor) -> Tensor:
    """The same tensor with its channels innermost in memory."""
    return x.contiguous(memory_format=FORMATS[x.ndim])


@torch.no_grad()
def channels_last_weights(model: nn.Module) -> None:
    """Lay every convolution's weights out so, in place."""
    for parameter in model.parameters():
        if parameter.ndim in FORMATS:
            parameter.data = channels_last(parameter.data)
