"""The Wan 2.1 text-to-video transformer: teacher, student and critic are all `WanTransformer`.

The forward pass is a set of functions over any module tree that carries Wan 2.1's names. Ours is one such tree, a
host's own Wan model another. The pass calls modules and never reads their weights, so LoRAs, quantisation and
offloading that a host has put into its modules act here too. Only the bare `modulation` parameters, which belong to no
module that could be called, are read and cast to the input.

What tells a bidirectional teacher from a causal student is only what a token may attend to: everything, what a
`Visibility` lets it see, or a cache. Axes: B batch, C latent channels, T latent frames, H and W latent cells, L tokens,
D channels, N heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .attention import AttentionFn, Visibility, attend, rotary_table, rotate, sdpa_attention
from .config import WAN21, WanConfig

NUM_MODULATIONS = 6
"""Shift, scale and gate, for self-attention and for the feed-forward layers."""


class KeyValueCache(Protocol):
    """The part of a cache of past frames that the pass needs: where the chunk stands and what it attends to."""

    def positions(self, num_frames: int) -> tuple[int, ...]:
        """Absolute indices of the next `num_frames` latent frames."""
        ...

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put the chunk's keys and values [B, L, N, D] of a layer beside the visible past and return both."""
        ...


@dataclass(frozen=True, slots=True)
class TextContext:
    """Keys and values of the text in every layer's cross-attention, [B, L, N, D] each, computed once a prompt."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class BlockContext:
    """The tensors that every block of one forward pass shares."""

    modulation_BTKD: Tensor
    rotary: tuple[Tensor, Tensor]
    text: Tensor | TextContext
    num_heads: int
    attention: AttentionFn
    visibility: Visibility | None
    """In tokens."""
    cache: KeyValueCache | None


RunBlock = Callable[[nn.Module, Tensor, int, BlockContext], Tensor]
EmbedInBlock = Callable[[nn.Module, Tensor, int], tuple[Tensor, Tensor]]


def sinusoidal_embedding(timestep: Tensor, width: int) -> Tensor:
    """Float32 [..., width]: cosines, then sines, of timestep * 10000^(-i / (width / 2)), as in Wan 2.1."""
    half = width // 2
    frequencies = 10_000.0 ** (-torch.arange(half, dtype=torch.float64, device=timestep.device) / half)
    angles = timestep.to(torch.float64)[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1).float()


def _split_heads(x: Tensor, num_heads: int) -> Tensor:
    # Views by torch's own methods: einops takes 20 us of the CPU a call, and a block has two dozen of them.
    return x.unflatten(-1, (num_heads, -1))


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """X * (1 + scale) + shift with one shift and scale [B, T, D] for all tokens of a frame; x is [B, L, D]."""
    frames = x.unflatten(1, (shift.shape[1], -1))
    return (frames * (1 + scale[:, :, None]) + shift[:, :, None]).flatten(1, 2)


def _gate(x: Tensor, gate: Tensor) -> Tensor:
    return (x.unflatten(1, (gate.shape[1], -1)) * gate[:, :, None]).flatten(1, 2)


def _modulations(owner: nn.Module, embedding_BTKD: Tensor) -> tuple[Tensor, ...]:
    """The owner's learned modulation added to the timestep's, split into its K parts of [B, T, D]."""
    learned = owner.modulation.to(device=embedding_BTKD.device, dtype=embedding_BTKD.dtype)
    return (learned[:, None] + embedding_BTKD).unbind(dim=2)


def _self_attention(attn: nn.Module, x: Tensor, layer: int, context: BlockContext) -> Tensor:
    queries = rotate(_split_heads(attn.norm_q(attn.q(x)), context.num_heads), context.rotary)
    keys = rotate(_split_heads(attn.norm_k(attn.k(x)), context.num_heads), context.rotary)
    values = _split_heads(attn.v(x), context.num_heads)
    if context.cache is not None:
        keys, values = context.cache.extend(layer, keys, values)
    out = attend(context.attention, queries, keys, values, context.visibility)
    return attn.o(out.flatten(2))


def _text_keys_values(attn: nn.Module, text: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    return _split_heads(attn.norm_k(attn.k(text)), num_heads), _split_heads(attn.v(text), num_heads)


def _cross_attention(attn: nn.Module, x: Tensor, layer: int, context: BlockContext) -> Tensor:
    queries = _split_heads(attn.norm_q(attn.q(x)), context.num_heads)
    if isinstance(context.text, TextContext):
        keys, values = context.text.keys[layer], context.text.values[layer]
    else:
        keys, values = _text_keys_values(attn, context.text, context.num_heads)
    out = context.attention(queries, keys, values)
    return attn.o(out.flatten(2))


def block_forward(block: nn.Module, x: Tensor, layer: int, context: BlockContext) -> Tensor:
    """One transformer block: self-attention, cross-attention to the text, feed-forward; x is [B, L, D]."""
    shift_attn, scale_attn, gate_attn, shift_ffn, scale_ffn, gate_ffn = _modulations(block, context.modulation_BTKD)
    attended = _self_attention(block.self_attn, _modulate(block.norm1(x), shift_attn, scale_attn), layer, context)
    x = x + _gate(attended, gate_attn)
    x = x + _cross_attention(block.cross_attn, block.norm3(x), layer, context)
    return x + _gate(block.ffn(_modulate(block.norm2(x), shift_ffn, scale_ffn)), gate_ffn)


def block_text(block: nn.Module, embedded: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    """Keys and values [B, L, N, D] of the embedded text [B, L, D] in one block's cross-attention."""
    return _text_keys_values(block.cross_attn, embedded, num_heads)


def embed_text(
    modules: nn.Module, config: WanConfig, text: Tensor, *, embed_in_block: EmbedInBlock = block_text
) -> TextContext:
    """Compute what every layer needs of `text` [B, L, text_dim], already padded by its encoder.

    embed_in_block: how a block is asked for its part.
    """
    embedded = modules.text_embedding(text)
    pairs = [embed_in_block(block, embedded, config.num_heads) for block in modules.blocks]
    keys, values = zip(*pairs, strict=True)
    return TextContext(keys, values)


def predict_flow(
    modules: nn.Module,
    config: WanConfig,
    x: Tensor,
    timestep: Tensor,
    text: Tensor | TextContext,
    *,
    attention: AttentionFn = sdpa_attention,
    positions: tuple[int, ...] | None = None,
    cache: KeyValueCache | None = None,
    visibility: Visibility | None = None,
    run_block: RunBlock = block_forward,
) -> Tensor:
    """Predict the flow v = noise - x0 (rectified flow, Liu et al. 2022, arXiv 2209.03003), [B, C, T, H, W].

    x: latents in model space, [B, C, T, H, W], in the dtype to compute in. timestep: 0..1000, [B, T], float.
    text: the encoder's output [B, L, text_dim], or what `embed_text` made of it.
    positions: absolute index of each latent frame, 0..T-1 by default; with a cache they follow its last frame.
    visibility: which frames see which, in frames; without it all see the whole of x and of the cache.
    run_block: how a block is called.
    """
    num_frames = x.shape[2]
    if cache is not None:
        positions = cache.positions(num_frames)
    patches = modules.patch_embedding(x.float()).to(x.dtype)
    height, width = patches.shape[-2:]
    tokens = rearrange(patches, "b d t h w -> b (t h w) d")

    time_features = sinusoidal_embedding(timestep, config.freq_dim).to(x.dtype)
    time_BTD = modules.time_embedding(time_features)
    context = BlockContext(
        modulation_BTKD=rearrange(modules.time_projection(time_BTD), "b t (k d) -> b t k d", k=NUM_MODULATIONS),
        rotary=rotary_table(positions or tuple(range(num_frames)), height, width, config.head_dim, x.device),
        text=text if isinstance(text, TextContext) else modules.text_embedding(text.to(x.dtype)),
        num_heads=config.num_heads,
        attention=attention,
        visibility=visibility and visibility.in_tokens(height * width),
        cache=cache,
    )
    for layer, block in enumerate(modules.blocks):
        tokens = run_block(block, tokens, layer, context)

    shift, scale = _modulations(modules.head, time_BTD[:, :, None])
    out = modules.head.head(_modulate(modules.head.norm(tokens), shift, scale))
    return rearrange(
        out,
        "b (t h w) (p q c) -> b c t (h p) (w q)",
        t=num_frames,
        h=height,
        w=width,
        p=WAN21.patch,
        q=WAN21.patch,
    )


class PatchEmbedding(nn.Conv3d):
    """Patches to tokens, whatever dtype the weights are in: the forward pass hands it float32, as hosts expect."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class LayerNorm(nn.LayerNorm):
    """Layer normalisation in the input's dtype, whatever dtype the weights are in.

    Under mixed precision tokens stay float32 while weights come in bfloat16, which PyTorch refuses on a CPU.
    """

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
