"""ComfyUI's VAE object behind the core's streaming decoder and encoder, in tiles where memory is short."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import comfy.model_management as memory
import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from einops import rearrange
from torch import Tensor

from ...sfpp_core.wan.config import WAN21
from ...sfpp_core.wan.vae import DecodeStream, EncodeStream, WanVAE
from ...sfpp_core.wan.vae_tiling import TiledDecodeStream, Tiling
from .inactive import what_of_the_vae_does_not_act
from .memory import is_out_of_memory
from .progress import InterruptibleBar
from .report import Report
from .wired import plain_name

WHAT_FITS = "Wire the Wan 2.1 VAE (wan_2.1_vae.safetensors in Load VAE, or the one of SFPP Load Tiny)."


def wan_vae(vae: Any) -> WanVAE:
    """The core's VAE around the weights of a ComfyUI VAE; nothing is copied.

    Raises ValueError if it is not Wan 2.1's.
    """
    network = vae.first_stage_model
    if network is None:
        raise ValueError(f"VAE holds no weights; its file was not a VAE. {WHAT_FITS}")
    try:
        # Compiled or not: torch.compile wraps modules, and their weights have its names in front then.
        own = WanVAE.from_state_dict({plain_name(name): weight for name, weight in network.state_dict().items()})
    except ValueError as error:
        raise ValueError(f"VAE does not fit: {error}. {WHAT_FITS}") from error
    if own.config.z_dim != WAN21.channels:
        raise ValueError(
            f"VAE makes latents of {own.config.z_dim} channels, Wan 2.1's has {WAN21.channels}. {WHAT_FITS}"
        )
    return own.eval()


def vae_patcher(vae: Any) -> ModelPatcher:
    """The core's VAE in the dtype of a ComfyUI VAE, for ComfyUI to bring to its device. Raises as `wan_vae`.

    A patcher of its own: the weights must be whole on the device, wherever ComfyUI keeps or maps its copy of them.
    """
    own = wan_vae(vae).to(vae.vae_dtype)
    return ModelPatcher(own, load_device=vae.device, offload_device=memory.vae_offload_device())


def as_frames(pixels: Tensor) -> Tensor:
    """Pixels [1, 3, F, H, W] in [-1, 1] as frames F H W C in [0, 1], float32 on the CPU."""
    return rearrange(pixels.float().cpu().add(1).div(2), "1 c f h w -> f h w c")


class Video(Protocol):
    """A writer that takes the frames."""

    def write(self, frames: Tensor) -> None: ...


def decode_video(
    vae: Any,
    samples: Tensor,
    open_video: Callable[[], AbstractContextManager[Video]],
    on_frame: Callable[[int, int], None],
    report: Report,
) -> None:
    """Write the pixels of a video [1, 16, T, H, W] into a video, one latent frame at a time.

    Computes on the device and in the dtype that ComfyUI chose for this VAE, with ComfyUI managing the weights' memory.
    If memory runs out, the video is begun again in tiles, from its first frame on, so that it looks alike all through;
    the report says so.

    Args:
        open_video: opens a video that begins; what was written to one before is dropped when its block ends in an
        error.
            It is given [1, 8H, 8W, 3] in [0, 1] first and then [4, ...] each time.
        on_frame: told the latent frames done and T after each.

    Raises:
        ValueError: before anything is decoded, if the VAE is not Wan 2.1's.
        OOM_EXCEPTION: ComfyUI's; not even the smallest tiles fit.
    """
    patcher = vae_patcher(vae)
    report.add_all(what_of_the_vae_does_not_act(vae))
    tiling = Tiling(height=samples.shape[3], width=samples.shape[4])
    memory.load_models_gpu([patcher], memory_required=_estimate(vae, tiling), force_full_load=True)
    while not _fits(patcher, vae.vae_dtype, samples, tiling, open_video, on_frame):
        memory.soft_empty_cache()
        tiling = _finer(vae, tiling, report)


def _fits(
    patcher: ModelPatcher,
    dtype: torch.dtype,
    samples: Tensor,
    tiling: Tiling,
    open_video: Callable[[], AbstractContextManager[Video]],
    on_frame: Callable[[int, int], None],
) -> bool:
    """Make the whole video with this tiling; False if memory ran out, which is free again then."""
    try:
        stream = DecodeStream(patcher.model) if tiling.num_tiles == 1 else TiledDecodeStream(patcher.model, tiling)
        with open_video() as video:
            for done, latent in enumerate(samples.split(1, dim=2), start=1):
                pixels = stream.push(latent.to(patcher.load_device, dtype))
                video.write(as_frames(pixels))
                on_frame(done, samples.shape[2])
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return False  # and not from here: until the error is gone, it holds on to all that was allocated
    return True


def _finer(vae: Any, tiling: Tiling, report: Report) -> Tiling:
    """The next finer tiling, of which the report tells; raises ComfyUI's out-of-memory error if there is none."""
    size = f"{WAN21.spatial_stride * tiling.width}x{WAN21.spatial_stride * tiling.height}"
    short = (
        f"Not enough memory to decode {size} pixels {'whole' if tiling.num_tiles == 1 else _described(tiling)}: that "
        f"takes about {_gigabytes(_estimate(vae, tiling))}, and {_gigabytes(memory.get_free_memory(vae.device))} are "
        f"free on {vae.device}."
    )
    finer = tiling.finer()
    if finer is None:
        raise memory.OOM_EXCEPTION(
            f"{short} Smaller tiles would not help. Close other programs, or make the video with a smaller width or "
            "height."
        )
    report.add(
        f"{short} The video is begun again {_described(finer)}, which overlap: about "
        f"{_gigabytes(_estimate(vae, finer))}, and slower. A smaller width or height, or closing other programs, "
        "avoids this."
    )
    return finer


def _described(tiling: Tiling) -> str:
    height, width = (WAN21.spatial_stride * side for side in tiling.tile_size)
    return f"in {tiling.num_tiles} tiles of {width}x{height}"


def _estimate(vae: Any, tiling: Tiling) -> int:
    """Bytes that ComfyUI expects a latent frame of one tile to take."""
    return int(vae.memory_used_decode((1, WAN21.channels, 1, *tiling.tile_size), vae.vae_dtype))


def _gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.2f} GB"


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
