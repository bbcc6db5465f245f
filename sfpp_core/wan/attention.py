"""Which kernel computes attention. Axes: B batch, L queries, S keys, H heads, D channels a head."""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


class AttentionFn(Protocol):
    """softmax(q k^T / sqrt(D)) v over every head."""

    def __call__(self, q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor, mask_LS: Tensor | None = None) -> Tensor:
        """Return [B, L, H, D]. `mask_LS` is boolean, True where a query may see a key; None lets it see all."""
        ...


def sdpa_attention(q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor, mask_LS: Tensor | None = None) -> Tensor:
    """PyTorch's scaled-dot-product attention, which picks flash attention where the card has it. The default."""
    q, k, v = (rearrange(x, "b l h d -> b h l d") for x in (q_BLHD, k_BSHD, v_BSHD))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_LS)
    return rearrange(out, "b h l d -> b l h d")


def xformers_attention(q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor, mask_LS: Tensor | None = None) -> Tensor:
    """xformers' memory-efficient attention (a CUDA package, installed by the extra `xformers`).

    A mask is left to PyTorch: xformers wants it as an aligned additive tensor a head, which no rollout needs.
    Raises ImportError if xformers is not installed.
    """
    from xformers.ops import memory_efficient_attention

    if mask_LS is not None:
        return sdpa_attention(q_BLHD, k_BSHD, v_BSHD, mask_LS)
    return memory_efficient_attention(q_BLHD, k_BSHD, v_BSHD)
