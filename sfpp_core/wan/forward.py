"""The transformer's forward pass, as functions over any module tree that carries Wan 2.1's names.

Ours (`WanTransformer`) is one such tree, ComfyUI's own Wan model another. The pass calls modules and never reads their
weights, so LoRAs, quantisation and offloading that a host has put into its modules act here too; only the bare
`modulation` parameters, which belong to no module that could be called, are read and cast to the input.

What tells a bidirectional teacher from a causal student is only what a token may attend to: everything, what a
`Visibility` lets it see, or a cache. Axes: B batch, C latent channels, T latent frames, H and W latent cells, L tokens,
D channels, N heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor, nn

from .attention import AttentionFn, attend, sdpa_attention
from .config import WanConfig
from .geometry import WAN21
from .rope import rotary_table, rotate
from .visibility import Visibility

NUM_MODULATIONS = 6
"""Shift, scale and gate, for self-attention and for the feed-forward layers."""


class KeyValueCache(Protocol):
    """What the pass needs of a cache of past frames: where the chunk stands and what it attends to."""

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
    """What every block of one forward pass shares."""

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
    return rearrange(x, "b l (n d) -> b l n d", n=num_heads)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x * (1 + scale) + shift with one shift and scale [B, T, D] for all tokens of a frame; x is [B, L, D]."""
    frames = rearrange(x, "b (t n) d -> b t n d", t=shift.shape[1])
    return rearrange(frames * (1 + scale[:, :, None]) + shift[:, :, None], "b t n d -> b (t n) d")


def _gate(x: Tensor, gate: Tensor) -> Tensor:
    frames = rearrange(x, "b (t n) d -> b t n d", t=gate.shape[1])
    return rearrange(frames * gate[:, :, None], "b t n d -> b (t n) d")


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
    return attn.o(rearrange(out, "b l n d -> b l (n d)"))


def _text_keys_values(attn: nn.Module, text: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    return _split_heads(attn.norm_k(attn.k(text)), num_heads), _split_heads(attn.v(text), num_heads)


def _cross_attention(attn: nn.Module, x: Tensor, layer: int, context: BlockContext) -> Tensor:
    queries = _split_heads(attn.norm_q(attn.q(x)), context.num_heads)
    if isinstance(context.text, TextContext):
        keys, values = context.text.keys[layer], context.text.values[layer]
    else:
        keys, values = _text_keys_values(attn, context.text, context.num_heads)
    out = context.attention(queries, keys, values)
    return attn.o(rearrange(out, "b l n d -> b l (n d)"))


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
