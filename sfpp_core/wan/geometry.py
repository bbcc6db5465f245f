"""How pixels, latent frames and tokens of Wan 2.1 correspond. No other file writes these numbers down."""

from __future__ import annotations

import math
from dataclasses import dataclass

FRAMES_PER_SECOND = 16
"""Frame rate of every Wan 2.1 video."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentGeometry:
    """Strides of a causal video VAE and of the transformer's patches.

    The first latent frame holds one pixel frame, every later one `temporal_stride` of them:
    T latent frames are `temporal_stride * (T - 1) + 1` pixel frames.
    """

    channels: int
    """Latent channels."""
    temporal_stride: int
    """Pixel frames a latent frame, after the first."""
    spatial_stride: int
    """Pixels a latent cell, along height and along width."""
    patch: int
    """Latent cells a token, along height and along width."""

    def pixel_frames(self, latent_frames: int) -> int:
        """Pixel frames that `latent_frames` (at least 1) decode to."""
        if latent_frames < 1:
            raise ValueError(f"latent_frames is {latent_frames}; a video has at least 1 latent frame.")
        return self.temporal_stride * (latent_frames - 1) + 1

    def seconds(self, latent_frames: int) -> float:
        """Seconds of film that `latent_frames` decode to; 0 for none."""
        return self.pixel_frames(latent_frames) / FRAMES_PER_SECOND if latent_frames else 0.0

    def latent_frames(self, pixel_frames: int) -> int:
        """Fewest latent frames that decode to at least `pixel_frames` (at least 1) pixel frames."""
        if pixel_frames < 1:
            raise ValueError(f"pixel_frames is {pixel_frames}; a video has at least 1 frame.")
        return math.ceil((pixel_frames - 1) / self.temporal_stride) + 1

    @property
    def size_multiple(self) -> int:
        """Pixels that height and width must be a multiple of, so that whole tokens cover the picture."""
        return self.spatial_stride * self.patch

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in latent cells of a picture of `height` x `width` pixels.

        Raises ValueError naming the nearest valid size if a side is not a positive multiple of `size_multiple`.
        """
        for name, size in (("height", height), ("width", width)):
            if size < self.size_multiple or size % self.size_multiple:
                nearest = max(1, round(size / self.size_multiple)) * self.size_multiple
                raise ValueError(
                    f"{name} is {size}; it must be a positive multiple of {self.size_multiple} pixels. Try {nearest}."
                )
        return height // self.spatial_stride, width // self.spatial_stride

    def tokens_per_frame(self, latent_height: int, latent_width: int) -> int:
        """Tokens that one latent frame of the given size becomes."""
        return (latent_height // self.patch) * (latent_width // self.patch)


WAN21 = LatentGeometry(channels=16, temporal_stride=4, spatial_stride=8, patch=2)
"""Wan 2.1, every size of it."""
