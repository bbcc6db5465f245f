"""Pictures to latents through ComfyUI's VAE object, piece by piece through the core's streaming encoder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import comfy.model_management as memory
import numpy as np
import torch
from torch import Tensor

from ...sfpp_core.wan.config import WAN21
from ...sfpp_core.wan.vae import EncodeStream
from .decoding import vae_patcher
from .progress import InterruptibleBar


def encode_pictures(vae: Any, pictures: Iterable[np.ndarray], num_frames: int) -> Tensor:
    """Latents [1, 16, T, H/8, W/8] in VAE space of `num_frames` = 4 (T - 1) + 1 pictures, uint8 H W C.

    Computes on the device and in the dtype that ComfyUI chose for this VAE; no more than a latent frame's pictures are
    held. Raises ValueError if the VAE is not Wan 2.1's.
    """
    patcher = vae_patcher(vae)
    stream, bar, latents = EncodeStream(patcher.model), InterruptibleBar(), []
    for done, picture in enumerate(pictures, start=1):
        if done == 1:
            height, width = picture.shape[:2]
            estimate = vae.memory_used_encode((1, 3, WAN21.temporal_stride, height, width), vae.vae_dtype)
            memory.load_models_gpu([patcher], memory_required=estimate, force_full_load=True)
        pixels = torch.from_numpy(picture).permute(2, 0, 1)[None, :, None].float().div(127.5).sub(1)
        latents.append(stream.push(pixels.to(patcher.load_device, vae.vae_dtype)).float().cpu())
        bar.update(done, num_frames)
    return torch.cat(latents, dim=2)
