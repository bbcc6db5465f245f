"""Which kernel computes attention, and of what. Axes: B batch, L queries, S keys, H heads, D channels a head."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .visibility import Visibility


class AttentionFn(Protocol):
    """softmax(q k^T / sqrt(D)) v over every head."""

    def __call__(self, q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> Tensor:
        """Return [B, L, H, D]; every query sees every key."""
        ...


def sdpa_attention(q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> Tensor:
    """PyTorch's scaled-dot-product attention, which picks flash attention where the card has it. The default."""
    q, k, v = (rearrange(x, "b l h d -> b h l d") for x in (q_BLHD, k_BSHD, v_BSHD))
    out = F.scaled_dot_product_attention(q, k, v)
    return rearrange(out, "b h l d -> b l h d")


def xformers_attention(q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> Tensor:
    """xformers' memory-efficient attention (a CUDA package, installed by the extra `xformers`).

    Raises ImportError if xformers is not installed.
    """
    from xformers.ops import memory_efficient_attention

    return memory_efficient_attention(q_BLHD, k_BSHD, v_BSHD)


def attend(
    attention: AttentionFn, q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor, visibility: Visibility | None = None
) -> Tensor:
    """Attention in which a query sees what `visibility`, in tokens, says; without it every key. [B, L, H, D].

    Queries that see the same keys go to the kernel together, with no others: exact, on any device and in any kernel,
    and what is not seen costs nothing. PyTorch's FlexAttention knows such patterns too, but makes all scores unless it
    is compiled, and goes backward on no CPU; its other kernels, given a mask, compute what that hides.
    """
    if visibility is None:
        return attention(q_BLHD, k_BSHD, v_BSHD)
    # Split once, not sliced for each: so the gradients of pieces add up as pieces, and not as tensors of all keys.
    keys, values = (tensor.split(visibility.keys, dim=1) for tensor in (k_BSHD, v_BSHD))
    pieces = [
        attention(queries, *(torch.cat([side[piece] for piece in seen], dim=1) for side in (keys, values)))
        for queries, seen in zip(q_BLHD.split(visibility.queries, dim=1), visibility.seen, strict=True)
    ]
    return torch.cat(pieces, dim=1)
