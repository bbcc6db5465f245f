"""Small random VAEs and what goes through them, shared by the VAE's tests."""

from __future__ import annotations

import torch
from torch import Tensor

from sfpp_core.wan.vae import WanVAE, WanVAEConfig

HEIGHT, WIDTH = 32, 48


def random_vae(dim: int = 8, **config: object) -> WanVAE:
    """A VAE whose every weight matters, the residual branches and the temporal convolutions' past included."""
    torch.manual_seed(0)
    vae = WanVAE(WanVAEConfig(dim=dim, **config)).eval()
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            fan_in = parameter[0].numel() if name.endswith("weight") else 16
            parameter.copy_(torch.randn_like(parameter) * fan_in**-0.5 + name.endswith("gamma"))
        vae.decoder.head[-1].weight.mul_(0.2)  # so that few pixels are clamped
    return vae


def random_video(frames: int, *, batch: int = 1, seed: int = 1) -> Tensor:
    return torch.rand(batch, 3, frames, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def random_latents(frames: int, *, batch: int = 1, seed: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 16, frames, HEIGHT // 8, WIDTH // 8, generator=generator)
