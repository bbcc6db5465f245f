"""The two scales of Wan 2.1 latents.

VAE space is what the Wan VAE emits and what a ComfyUI LATENT holds. Model space is what the transformer sees: each of
the 16 channels shifted and scaled to about zero mean and unit deviation. The numbers are Wan 2.1's own
(wan/modules/vae.py of the published code); networks trained on them have them built in.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

# fmt: off
CHANNEL_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)
"""Mean of each channel in VAE space."""

CHANNEL_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)
"""Standard deviation of each channel in VAE space."""
# fmt: on


def to_model_space(raw: Tensor) -> Tensor:
    """Latents B 16 T H W of the VAE, shifted and scaled for the transformer; device and dtype stay."""
    mean, std = _per_channel(raw)
    return ((raw - mean) / std).to(raw.dtype)


def to_vae_space(latents: Tensor) -> Tensor:
    """The inverse of `to_model_space`: B 16 T H W from the transformer, as the VAE decodes them."""
    mean, std = _per_channel(latents)
    return (latents * std + mean).to(latents.dtype)


def _per_channel(latents: Tensor) -> Tensor:
    """Means and deviations, two tensors that broadcast over `latents`; at least float32, as half types lose digits."""
    if latents.ndim != 5 or latents.shape[1] != len(CHANNEL_MEAN):
        expected = f"(batch, {len(CHANNEL_MEAN)}, frames, height, width)"
        raise ValueError(f"the latents are {tuple(latents.shape)}; those of Wan 2.1 are {expected}")
    dtype = torch.promote_types(latents.dtype, torch.float32)
    moments = torch.tensor((CHANNEL_MEAN, CHANNEL_STD), dtype=dtype, device=latents.device)
    return rearrange(moments, "moment c -> moment 1 c 1 1 1")
