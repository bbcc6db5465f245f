"""What the reader minimises."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .batches import ReaderBatch
from .model import ReaderOutput

LOOKS_WEIGHT = 2.0
"""Of the squared error of the looks, against 1 for each attribute's cross entropy."""


def reader_loss(output: ReaderOutput, batch: ReaderBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, a scalar, and its parts by name, detached: cross entropies in nats, and the error of the looks."""
    parts = {
        name: F.cross_entropy(logits, labels)
        for (name, logits), labels in zip(output.logits.items(), batch.labels.unbind(dim=1), strict=True)
    }
    looks = F.mse_loss(output.looks, batch.looks)
    total = sum(parts.values()) + LOOKS_WEIGHT * looks
    return total, {name: part.detach() for name, part in (parts | {"looks": looks}).items()}
