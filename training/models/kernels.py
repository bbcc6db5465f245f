"""What makes networks fast in training: attention on a CPU, and convolutions with channels last."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from sfpp_core.tiny.text import TinyTextEncoder
from sfpp_core.wan.attention import AttentionFn, rotary_table, sdpa_attention
from sfpp_core.wan.transformer import WanTransformer


def matmul_attention(q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> Tensor:
    """Attention as two matrix products with a softmax between, for the few tokens of the built-in family.

    Same result as `sdpa_attention` to rounding. On a CPU PyTorch's fused kernel goes backward slowly in bfloat16: 144
    tokens took 24 ms, these products 9; 24 text tokens 18 ms against 3.
    """
    heads = q_BLHD.shape[2]
    q, k, v = (rearrange(x, "b l h d -> (b h) l d") for x in (q_BLHD, k_BSHD, v_BSHD))
    scores = torch.bmm(q * q.shape[-1] ** -0.5, k.transpose(1, 2))
    out = torch.bmm(scores.float().softmax(-1).to(v.dtype), v)
    return rearrange(out, "(b h) l d -> b l h d", h=heads)


def attention_on(device: torch.device) -> AttentionFn:
    """The attention to train with on a device: `matmul_attention` on a CPU, PyTorch's fused one elsewhere."""
    return matmul_attention if device.type == "cpu" else sdpa_attention


FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def channels_last(x: Tensor) -> Tensor:
    """Return the same tensor with its channels innermost in memory."""
    return x.contiguous(memory_format=FORMATS[x.ndim])


@torch.no_grad()
def channels_last_weights(model: nn.Module) -> None:
    """Lay every convolution's weights out so, in place."""
    for parameter in model.parameters():
        if parameter.ndim in FORMATS:
            parameter.data = channels_last(parameter.data)


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
