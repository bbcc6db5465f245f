"""ComfyUI's choice of attention kernel, with the shapes that the core speaks."""

from __future__ import annotations

from typing import Any

from comfy.ldm.modules.attention import optimized_attention
from einops import rearrange
from torch import Tensor


class HostAttention:
    """The kernel that ComfyUI was started with (or that a node put into the MODEL's transformer options)."""

    def __init__(self, transformer_options: dict[str, Any]) -> None:
        self._options = transformer_options

    def __call__(self, q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> Tensor:
        """[B, L, H, D], as sfpp_core.wan.attention.AttentionFn."""
        num_heads = q_BLHD.shape[2]
        q, k, v = (rearrange(x, "b l h d -> b l (h d)") for x in (q_BLHD, k_BSHD, v_BSHD))
        out = optimized_attention(q, k, v, heads=num_heads, transformer_options=self._options)
        return rearrange(out, "b l (h d) -> b l h d", h=num_heads)


def attention_kernel(transformer_options: dict[str, Any]) -> Any:
    """Which kernel that is."""
    return transformer_options.get("optimized_attention_override", optimized_attention)
