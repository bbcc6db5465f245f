"""Small random models that the core's tests share."""

from __future__ import annotations

import torch
from torch import Tensor

from sfpp_core.wan.config import WanConfig
from sfpp_core.wan.transformer import WanTransformer

TINY = WanConfig(dim=48, ffn_dim=96, num_heads=2, num_layers=3, text_dim=20, freq_dim=32)
LATENT_HEIGHT, LATENT_WIDTH = 4, 6


def random_transformer(config: WanConfig = TINY, *, seed: int = 0) -> WanTransformer:
    """A transformer whose every weight matters: large enough for attention to be far from uniform, head included."""
    torch.manual_seed(seed)
    network = WanTransformer(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return network


def random_text(*, seed: int = 1, batch: int = 1, tokens: int = 5, config: WanConfig = TINY) -> Tensor:
    """Text embeddings [B, tokens, text_dim]."""
    return torch.randn(batch, tokens, config.text_dim, generator=torch.Generator().manual_seed(seed))
