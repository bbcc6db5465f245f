"""Teacher and text encoder as one network, because they are trained as one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sfpp_core.tiny.text import TinyTextEncoder
from sfpp_core.wan.attention import rotary_table
from sfpp_core.wan.transformer import WanTransformer


class TextToVideo(nn.Module):
    """A transformer that is given token numbers instead of embeddings."""

    def __init__(self, transformer: WanTransformer, text_encoder: TinyTextEncoder) -> None:
        super().__init__()
        self.transformer = transformer
        self.text_encoder = text_encoder

    def forward(self, x: Tensor, timestep: Tensor, tokens: Tensor) -> Tensor:
        """The flow, B C T H W. timestep: [B, T]; tokens: [B, L]."""
        return self.transformer(x, timestep, self.text_encoder(tokens))


def compile_network(network: nn.Module) -> None:
    """Compile in place, for one shape at a time: names of weights stay, a new shape compiles again."""
    # A curriculum has few shapes; past this many recompilations PyTorch would silently fall back to eager.
    torch._dynamo.config.cache_size_limit = 32
    # Otherwise cosines in float64 are traced into every layer and taken again for every query and key.
    torch.compiler.assume_constant_result(rotary_table)
    network.compile(dynamic=False)
