"""What a token may attend to when a whole clip is trained in parallel: boolean masks, True where attention is allowed.

They say by mask what the rolling cache does by eviction, so that a parallel pass equals a rollout. A frame sees its
own chunk, the sink, and past frames no older than the window allows; the window counts sink and current chunk.
"""

from __future__ import annotations

import torch
from einops import repeat
from torch import Tensor


def _past_visible(num_frames: int, chunk: int, window: int, sink: int) -> Tensor:
    """[T, T]: query frame (rows) may see this earlier frame, its own chunk not counted."""
    frames = torch.arange(num_frames)
    chunk_start = (frames // chunk) * chunk
    chunk_end = (chunk_start + chunk).clamp(max=num_frames)
    oldest = chunk_end - (window - sink)
    is_past = frames[None, :] < chunk_start[:, None]
    return is_past & ((frames[None, :] >= oldest[:, None]) | (frames[None, :] < sink))


def chunk_causal_mask(num_frames: int, *, chunk: int, window: int, sink: int = 0) -> Tensor:
    """[T, T] for a clip cut into chunks from frame 0: own chunk, sink, and the window's past."""
    chunks = torch.arange(num_frames) // chunk
    own = chunks[None, :] == chunks[:, None]
    return own | _past_visible(num_frames, chunk, window, sink)


def teacher_forcing_mask(num_frames: int, *, chunk: int, window: int, sink: int = 0) -> Tensor:
    """[2T, 2T] for the sequence clean frames, then noisy frames of the same clip.

    A clean chunk sees clean chunks up to itself; a noisy chunk sees itself and earlier clean chunks, exactly as
    the chunk being denoised sees the cache in a rollout.
    """
    chunks = torch.arange(num_frames) // chunk
    own = chunks[None, :] == chunks[:, None]
    past = _past_visible(num_frames, chunk, window, sink)
    clean_rows = torch.cat([own | past, torch.zeros_like(own)], dim=1)
    noisy_rows = torch.cat([past, own], dim=1)
    return torch.cat([clean_rows, noisy_rows], dim=0)


def to_tokens(frame_mask: Tensor, tokens_per_frame: int) -> Tensor:
    """Repeat a [T, S] mask of frames into a [T * n, S * n] mask of tokens."""
    return repeat(frame_mask, "t s -> (t n) (s m)", n=tokens_per_frame, m=tokens_per_frame)
