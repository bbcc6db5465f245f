"""The sizes of a Wan 2.1 text-to-video transformer, and how they are read off its weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .geometry import WAN21

PUBLISHED_HEAD_DIM = 128
"""Width of an attention head in every published Wan 2.1 model; the number of heads cannot be read off the weights."""

BLOCK_NAME = re.compile(r"blocks\.(\d+)\.")
RANKS = {
    "patch_embedding.weight": 5,
    "blocks.0.ffn.0.weight": 2,
    "text_embedding.0.weight": 2,
    "time_embedding.0.weight": 2,
    "head.head.weight": 2,
}
"""The weights whose shapes tell the sizes, and how many axes they have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WanConfig:
    """Sizes of the transformer; `WAN21_T2V_1_3B` and `WAN21_T2V_14B` are those of the published models."""

    dim: int
    """Width of a token."""
    ffn_dim: int
    """Width inside the feed-forward layers."""
    num_heads: int
    """Attention heads; dim / num_heads is the head's width and must be even and at least 6."""
    num_layers: int
    """Transformer blocks."""
    text_dim: int
    """Width of the text encoder's embeddings."""
    freq_dim: int = 256
    """Width of the sinusoidal timestep embedding."""
    in_channels: int = WAN21.channels
    """Latent channels that go in."""
    out_channels: int = WAN21.channels
    """Latent channels that come out."""
    eps: float = 1e-6
    """Added to the variance in every normalisation."""

    def __post_init__(self) -> None:
        sizes = ("dim", "ffn_dim", "num_heads", "num_layers", "text_dim", "freq_dim", "in_channels", "out_channels")
        for name in sizes:
            size = getattr(self, name)
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} is {size!r}; it must be a whole number of at least 1.")
        if self.dim % self.num_heads or self.head_dim % 2 or self.head_dim < 6:
            raise ValueError(
                f"dim {self.dim} over {self.num_heads} heads gives no even head width of at least 6; "
                "choose num_heads so that dim / num_heads is even (published models use heads of 128)."
            )
        if self.freq_dim % 2:
            raise ValueError(f"freq_dim is {self.freq_dim}; it must be even, half of it sines and half cosines.")
        if not 0 < self.eps < math.inf:
            raise ValueError(f"eps is {self.eps}; it must be a small number above 0, such as 1e-6.")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.num_heads


WAN21_T2V_1_3B = WanConfig(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30, text_dim=4096)
"""Wan2.1-T2V-1.3B: 1.42 billion parameters."""
WAN21_T2V_14B = WanConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40, text_dim=4096)
"""Wan2.1-T2V-14B: 14.3 billion parameters."""


def infer_config(shapes: Mapping[str, Sequence[int]], *, num_heads: int | None = None) -> WanConfig:
    """Read the sizes off the shapes of weights under Wan 2.1's own names.

    `num_heads` defaults to heads of 128 as in every published model. Raises KeyError naming the first weight
    that is missing, ValueError if one has another number of axes or the patch is not Wan 2.1's 1 x 2 x 2.
    """
    for name, rank in RANKS.items():
        if len(shapes[name]) != rank:
            raise ValueError(f"{name} is {list(shapes[name])}; it must have {rank} axes.")
    dim, in_channels, *patch = shapes["patch_embedding.weight"]
    if tuple(patch) != (1, WAN21.patch, WAN21.patch):
        raise ValueError(f"the patch is {tuple(patch)}; Wan 2.1 has {(1, WAN21.patch, WAN21.patch)}.")
    layers = {match[1] for match in map(BLOCK_NAME.match, shapes) if match}
    return WanConfig(
        dim=dim,
        ffn_dim=shapes["blocks.0.ffn.0.weight"][0],
        num_heads=num_heads or max(1, dim // PUBLISHED_HEAD_DIM),
        num_layers=len(layers),
        text_dim=shapes["text_embedding.0.weight"][1],
        freq_dim=shapes["time_embedding.0.weight"][1],
        in_channels=in_channels,
        out_channels=shapes["head.head.weight"][0] // WAN21.patch**2,
    )
