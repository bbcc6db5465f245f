"""Attention of Wan 2.1: kernels, which frames see which, and rotary positions.

A `Visibility` says in advance what the rolling cache does by eviction, so that a parallel pass equals a rollout: a
frame sees its own chunk, the sink, and past frames no older than the window allows; the window counts sink and current
chunk. Rotary positions run over time, height and width (Su et al. 2021, arXiv 2104.09864; three axes as in Wan 2.1).
Their angles are computed for any position instead of being looked up, so nothing ends at Wan's table of 1024 frames: a
score depends on the distance between query and key only, and distances stay within the window.

Axes: B batch, L queries, S keys, H heads, D channels a head.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Visibility:
    """Queries and keys in neighbouring pieces, and the pieces of keys that each piece of queries sees.

    Lengths are latent frames; `in_tokens` makes them tokens. A few dozen whole numbers stand for a mask of queries by
    keys, 3.7 GB of booleans for teacher forcing with 21 frames of 832x480; see `attention.attend`.
    """

    queries: tuple[int, ...]
    """Lengths of the pieces of queries."""
    keys: tuple[int, ...]
    """Lengths of the pieces of keys."""
    seen: tuple[tuple[int, ...], ...]
    """For each piece of queries the pieces of keys that it sees, ascending, at least one."""

    def in_tokens(self, tokens_per_frame: int) -> Visibility:
        """Return the same for the tokens of the frames."""
        return Visibility(
            queries=tuple(length * tokens_per_frame for length in self.queries),
            keys=tuple(length * tokens_per_frame for length in self.keys),
            seen=self.seen,
        )


def chunk_causal(frames: range, *, chunk: int, window: int, sink: int = 0) -> Visibility:
    """Return what a clip's chunks see, at absolute indices `frames`: own chunk, sink, the window's past."""
    chunks = _chunks(frames, chunk)
    seen = [_seen(frames, own, own.start - frames.start, window=window, sink=sink) for own in chunks]
    return _in_pieces(chunks, seen, num_keys=len(frames))


def num_past(num_frames: int, *, chunk: int) -> int:
    """Return how many of a clip's frames are the past of others: all but those of its last chunk."""
    return (num_frames - 1) // chunk * chunk


def teacher_forcing(frames: range, *, chunk: int, window: int, sink: int = 0, past: Sequence[int] = ()) -> Visibility:
    """Return it for a clip's clean frames but the last chunk's, then its noisy frames; `frames`: absolute indices.

    A clean chunk sees clean chunks up to itself; a noisy chunk sees itself and earlier clean chunks, exactly as the
    chunk being denoised sees the cache in a rollout. Nobody would see the last chunk clean. Queries are those frames;
    keys are the clean frames before them that a cache holds, with absolute indices `past` in any order, then they.
    """
    beside = frames[: num_past(len(frames), chunk=chunk)]
    clean = (*past, *beside)
    chunks, clean_chunks = _chunks(frames, chunk), _chunks(beside, chunk)
    seen = [
        _seen(clean, own, first + own.start - frames.start, window=window, sink=sink)
        for first, half in ((len(past), clean_chunks), (len(clean), chunks))
        for own in half
    ]
    return _in_pieces(clean_chunks + chunks, seen, num_keys=len(clean) + len(frames))


def _chunks(frames: range, chunk: int) -> list[range]:
    return [frames[start : start + chunk] for start in range(0, len(frames), chunk)]


def _seen(clean: Sequence[int], own: range, own_key: int, *, window: int, sink: int) -> set[int]:
    """Numbers of the keys that the chunk `own` sees.

    clean: absolute index of the frame of each key that may be its past. own_key: number of its own first key.
    """
    oldest = own.stop - (window - sink)
    past = {key for key, frame in enumerate(clean) if frame < own.start and (frame >= oldest or frame < sink)}
    return past | set(range(own_key, own_key + len(own)))


def _in_pieces(chunks: Sequence[range], seen: Sequence[set[int]], *, num_keys: int) -> Visibility:
    """Neighbouring keys that the same chunks see make a piece."""
    viewers = [tuple(number for number, keys in enumerate(seen) if key in keys) for key in range(num_keys)]
    pieces = [(who, len(list(keys))) for who, keys in groupby(viewers)]
    return Visibility(
        queries=tuple(map(len, chunks)),
        keys=tuple(length for _, length in pieces),
        seen=tuple(
            tuple(piece for piece, (who, _) in enumerate(pieces) if number in who) for number in range(len(chunks))
        ),
    )


class AttentionFn(Protocol):
    """softmax(q k^T / sqrt(D)) v over every head."""

    def __call__(self, q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> Tensor:
        """Return [B, L, H, D]; every query sees every key."""
        ...


def sdpa_attention(q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> Tensor:
    """PyTorch's scaled-dot-product attention, which picks flash attention where the card has it. The default."""
    q, k, v = (x.transpose(1, 2) for x in (q_BLHD, k_BSHD, v_BSHD))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def xformers_attention(q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> Tensor:
    """Xformers' memory-efficient attention (a CUDA package, installed by the extra `xformers`).

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


THETA = 10_000.0
"""Base of the rotary frequencies in Wan 2.1."""


def axis_widths(head_dim: int) -> tuple[int, int, int]:
    """Channels of a head for time, height and width: the latter two get 2 * (head_dim // 6) each, time the rest."""
    spatial = 2 * (head_dim // 6)
    return head_dim - 2 * spatial, spatial, spatial


def _axis_angles(positions: Tensor, width: int) -> Tensor:
    """Angles [len(positions), width / 2] in float64: position * THETA^(-2i / width)."""
    exponents = torch.arange(0, width, 2, dtype=torch.float64) / width
    return torch.outer(positions.to(torch.float64), THETA**-exponents)


def rotary_table(
    frames: tuple[int, ...], height: int, width: int, head_dim: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 [L, 1, head_dim / 2] each, for L = len(frames) * height * width tokens.

    `frames` are absolute latent-frame indices (any integer), `height` and `width` count tokens. The angles are
    taken in float64, so that a position of a million loses nothing. Tables are kept for the next call, also for one
    that needs gradients, hence never made in inference mode.
    """
    return _kept_table(frames, height, width, head_dim, device)


@functools.lru_cache(maxsize=8)
@torch.inference_mode(mode=False)
def _kept_table(
    frames: tuple[int, ...], height: int, width: int, head_dim: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    time_width, height_width, width_width = axis_widths(head_dim)
    time_angles = _axis_angles(torch.tensor(frames), time_width)
    height_angles = _axis_angles(torch.arange(height), height_width)
    width_angles = _axis_angles(torch.arange(width), width_width)
    angles = torch.cat(
        [
            repeat(time_angles, "t d -> (t h w) 1 d", h=height, w=width),
            repeat(height_angles, "h d -> (t h w) 1 d", t=len(frames), w=width),
            repeat(width_angles, "w d -> (t h w) 1 d", t=len(frames), h=height),
        ],
        dim=-1,
    )
    return angles.cos().float().to(device), angles.sin().float().to(device)


def rotate(x_BLHD: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate neighbouring channel pairs of queries or keys [B, L, H, D] by the table's angles; dtype is kept."""
    cos, sin = table
    real, imag = x_BLHD.float().unflatten(-1, (-1, 2)).unbind(-1)
    rotated = torch.stack([real * cos - imag * sin, real * sin + imag * cos], dim=-1)
    return rotated.flatten(-2).to(x_BLHD.dtype)
