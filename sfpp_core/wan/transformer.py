"""The Wan 2.1 text-to-video transformer as PyTorch modules: teacher, student and critic are all this class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import AttentionFn, sdpa_attention
from .config import WanConfig
from .forward import (
    NUM_MODULATIONS,
    BlockContext,
    KeyValueCache,
    TextContext,
    block_forward,
    block_text,
    embed_text,
    predict_flow,
)
from .geometry import WAN21
from .visibility import Visibility


class PatchEmbedding(nn.Conv3d):
    """Patches to tokens, whatever dtype the weights are in: the forward pass hands it float32, as hosts expect."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class LayerNorm(nn.LayerNorm):
    """Normalises in the input's dtype, whatever dtype the weights are in: under mixed precision tokens stay float32
    while weights come in bfloat16, which PyTorch refuses on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class WanAttention(nn.Module):
    """Projections and normalisations of an attention layer; forward.py does the arithmetic."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = nn.RMSNorm(dim, eps=eps)
        self.norm_k = nn.RMSNorm(dim, eps=eps)


class WanBlock(nn.Module):
    """Self-attention, cross-attention to the text and feed-forward, each modulated by the timestep."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=config.eps, elementwise_affine=False)
        self.self_attn = WanAttention(config.dim, config.eps)
        self.norm3 = LayerNorm(config.dim, eps=config.eps)
        self.cross_attn = WanAttention(config.dim, config.eps)
        self.norm2 = nn.LayerNorm(config.dim, eps=config.eps, elementwise_affine=False)
        self.ffn = nn.Sequential(
            nn.Linear(config.dim, config.ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(config.ffn_dim, config.dim)
        )
        self.modulation = nn.Parameter(torch.empty(1, NUM_MODULATIONS, config.dim))

    def forward(self, x: Tensor, layer: int, context: BlockContext) -> Tensor:
        return block_forward(self, x, layer, context)

    def embed_text(self, embedded: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the embedded text; see forward.block_text."""
        return block_text(self, embedded, num_heads)


class WanHead(nn.Module):
    """Tokens back to patches."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim, eps=config.eps, elementwise_affine=False)
        self.head = nn.Linear(config.dim, config.out_channels * WAN21.patch**2)
        self.modulation = nn.Parameter(torch.empty(1, 2, config.dim))


class WanTransformer(nn.Module):
    """The module tree under Wan 2.1's own parameter names, so that published weights and LoRAs fit without renaming."""

    def __init__(self, config: WanConfig, *, attention: AttentionFn = sdpa_attention) -> None:
        super().__init__()
        self.config = config
        self.attention = attention
        patch = (1, WAN21.patch, WAN21.patch)
        self.patch_embedding = PatchEmbedding(config.in_channels, config.dim, kernel_size=patch, stride=patch)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, config.dim), nn.GELU(approximate="tanh"), nn.Linear(config.dim, config.dim)
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(config.freq_dim, config.dim), nn.SiLU(), nn.Linear(config.dim, config.dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(config.dim, NUM_MODULATIONS * config.dim))
        self.blocks = nn.ModuleList(WanBlock(config) for _ in range(config.num_layers))
        self.head = WanHead(config)
        # On the meta device there is nothing to start, and torch would take seconds to find that out.
        if not self.head.modulation.is_meta:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as Wan does: Xavier-uniform projections, small embeddings, a head that predicts zero flow."""
        for owner in (*self.blocks, self.head):
            nn.init.normal_(owner.modulation, std=self.config.dim**-0.5)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1))
        nn.init.zeros_(self.patch_embedding.bias)
        for embedding in (self.text_embedding, self.time_embedding):
            for linear in (embedding[0], embedding[2]):
                nn.init.normal_(linear.weight, std=0.02)
        nn.init.zeros_(self.head.head.weight)

    def embed_text(self, text: Tensor) -> TextContext:
        """Keys and values of `text` [B, L, text_dim] for every layer; see forward.embed_text."""
        return embed_text(
            self,
            self.config,
            text,
            # Blocks are asked by a method of theirs for the same reason as in `forward`.
            embed_in_block=lambda block, embedded, num_heads: block.embed_text(embedded, num_heads),
        )

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        text: Tensor | TextContext,
        *,
        positions: tuple[int, ...] | None = None,
        cache: KeyValueCache | None = None,
        visibility: Visibility | None = None,
    ) -> Tensor:
        """The flow v = noise - x0, [B, C, T, H, W]; arguments as in forward.predict_flow."""
        return predict_flow(
            self,
            self.config,
            x,
            timestep,
            text,
            attention=self.attention,
            positions=positions,
            cache=cache,
            visibility=visibility,
            # Blocks are called as modules so that sharding and checkpointing hooks fire.
            run_block=lambda block, tokens, layer, context: block(tokens, layer, context),
        )
