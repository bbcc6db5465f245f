"""Rotary positions over time, height and width (Su et al. 2021, arXiv 2104.09864; three axes as in Wan 2.1).

Angles are computed for any position instead of being looked up, so nothing ends at Wan's table of 1024 frames:
a score depends on the distance between query and key only, and distances stay within the window.
"""

from __future__ import annotations

import functools

import torch
from einops import rearrange, repeat
from torch import Tensor

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
    real, imag = rearrange(x_BLHD.float(), "b l h (d two) -> two b l h d", two=2)
    rotated = torch.stack([real * cos - imag * sin, real * sin + imag * cos], dim=-1)
    return rotated.flatten(-2).to(x_BLHD.dtype)
