"""ComfyUI's VAE object run piece by piece through the core's streaming decoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comfy.model_management as memory
import torch
from comfy.model_patcher import ModelPatcher
from einops import rearrange
from torch import Tensor

from ...sfpp_core.wan.geometry import WAN21
from ...sfpp_core.wan.vae import DecodeStream, WanVAE

WHAT_FITS = "Wire the Wan 2.1 VAE (wan_2.1_vae.safetensors in Load VAE, or the one of SFPP Load Tiny)."


def wan_vae(vae: Any) -> WanVAE:
    """The core's VAE around the weights of a ComfyUI VAE; nothing is copied.

    Raises ValueError if it is not Wan 2.1's.
    """
    network = vae.first_stage_model
    if network is None:
        raise ValueError(f"VAE holds no weights; its file was not a VAE. {WHAT_FITS}")
    try:
        own = WanVAE.from_state_dict(network.state_dict())
    except ValueError as error:
        raise ValueError(f"VAE does not fit: {error}. {WHAT_FITS}") from error
    if own.config.z_dim != WAN21.channels:
        raise ValueError(
            f"VAE makes latents of {own.config.z_dim} channels, Wan 2.1's has {WAN21.channels}. {WHAT_FITS}"
        )
    return own.eval()


def decode_frames(vae: Any, samples: Tensor) -> Iterator[Tensor]:
    """The pixels of a video [1, 16, T, H, W], one latent frame at a time: [4, 8H, 8W, 3] in [0, 1], the first [1, ...].

    Computes on the device and in the dtype that ComfyUI chose for this VAE, with ComfyUI managing the weights' memory.
    Raises ValueError, before anything is decoded, if the VAE is not Wan 2.1's.
    """
    own = wan_vae(vae).to(vae.vae_dtype)
    # A patcher of its own: the weights must be whole on the device, wherever ComfyUI keeps or maps its copy of them.
    patcher = ModelPatcher(own, load_device=vae.device, offload_device=memory.vae_offload_device())
    estimate = vae.memory_used_decode((*samples.shape[:2], 1, *samples.shape[3:]), vae.vae_dtype)
    memory.load_models_gpu([patcher], memory_required=estimate, force_full_load=True)
    return _decode_on(patcher, vae.vae_dtype, samples)


def _decode_on(patcher: ModelPatcher, dtype: torch.dtype, samples: Tensor) -> Iterator[Tensor]:
    """The frames, holding on to the patcher: weights that outlive theirs are a leak to ComfyUI's memory management."""
    stream = DecodeStream(patcher.model)
    for latent in samples.split(1, dim=2):
        piece = stream.push(latent.to(patcher.load_device, dtype))
        yield rearrange(piece.float().cpu().add(1).div(2), "1 c f h w -> f h w c")
