"""A ComfyUI MODEL behind the two calls that a rollout makes, and LATENT to the latents that it works on.

LATENT is in VAE space, the rollout in model space, both [B, C, T, H, W].
"""

from __future__ import annotations

from typing import Any, TypedDict

import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.model_management import intermediate_device
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...sfpp_core.wan.config import WAN21
from ...sfpp_core.wan.transformer import KeyValueCache, TextContext, embed_text, predict_flow
from .wired import ROOT, latent_format, uncompiled, wan_config


class HostAttention:
    """The kernel that ComfyUI was started with (or that a node put into the MODEL's transformer options)."""

    def __init__(self, transformer_options: dict[str, Any]) -> None:
        self._options = transformer_options

    def __call__(self, q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> Tensor:
        """[B, L, H, D], as sfpp_core.wan.attention.AttentionFn."""
        num_heads = q_BLHD.shape[2]
        q, k, v = (x.flatten(2) for x in (q_BLHD, k_BSHD, v_BSHD))
        out = optimized_attention(q, k, v, heads=num_heads, transformer_options=self._options)
        return out.unflatten(2, (num_heads, -1))


def attention_kernel(transformer_options: dict[str, Any]) -> Any:
    """Return which kernel that is."""
    return transformer_options.get("optimized_attention_override", optimized_attention)


class HostNetwork:
    """The module tree of a MODEL that ComfyUI loaded, with its LoRAs, quantisation and offloading, as a causal student.

    Its calls are valid while the MODEL is loaded, which is why no state ever holds one.
    """

    def __init__(self, model: ModelPatcher) -> None:
        """Raises ValueError if the MODEL is not a Wan 2.1 text-to-video model."""
        self.config = wan_config(model)
        self._model = model
        self._attention = HostAttention(model.model_options.get("transformer_options", {}))

    @property
    def _modules(self) -> nn.Module:
        """Asked for at each call: loading a MODEL may put another module in its place."""
        return uncompiled(getattr(self._model.model, ROOT))

    def embed_text(self, text: Tensor) -> TextContext:
        return embed_text(self._modules, self.config, text)

    def __call__(
        self, x: Tensor, timestep: Tensor, text: Tensor | TextContext, *, cache: KeyValueCache | None
    ) -> Tensor:
        return predict_flow(self._modules, self.config, x, timestep, text, attention=self._attention, cache=cache)


class Latent(TypedDict):
    """The dictionary that travels between nodes as LATENT."""

    samples: Tensor


def video_latents(latent: Latent, name: str) -> Tensor:
    """The latents [1, 16, T, H, W] of one video, T at least 1; an image's [1, 16, H, W] is a video of one frame.

    Raises ValueError naming the input `name` if LATENT holds something else.
    """
    samples = latent["samples"]
    if not isinstance(samples, Tensor) or samples.is_nested:
        raise ValueError(
            f"{name} holds several latents in one, such as a video with its sound. Wire the latent of a Wan 2.1 video, "
            "from VAE Encode or SFPP Sampler."
        )
    if samples.ndim == 4:
        samples = samples.unsqueeze(2)
    if samples.ndim != 5 or samples.shape[1] != WAN21.channels:
        raise ValueError(
            f"{name} has shape {tuple(latent['samples'].shape)}; a Wan 2.1 video latent is [1, {WAN21.channels}, "
            "frames, height / 8, width / 8]. Encode with the Wan 2.1 VAE (VAE Encode)."
        )
    if samples.shape[0] != 1:
        raise ValueError(f"{name} holds a batch of {samples.shape[0]} videos; choose one with Latent From Batch.")
    if samples.shape[2] < 1:
        raise ValueError(f"{name} holds no frames.")
    return samples


def start_latents(start: Latent, latent_size: tuple[int, int]) -> Tensor:
    """The latents [1, 16, T, H, W] of what a video begins with. latent_size: the video's height and width in cells.

    Raises ValueError if there is nothing in them, if they are not of the video's size, and as `video_latents`.
    """
    samples = start["samples"]
    if isinstance(samples, Tensor) and not samples.any():
        raise ValueError(
            "start is an empty latent (all zeros), and would be taken for the first pictures. Take the wire off: start "
            "is for a picture or a video from VAE Encode, and how long and large the video becomes is said by seconds, "
            "width and height of SFPP Sampler."
        )
    samples = video_latents(start, "start")
    if tuple(samples.shape[-2:]) != latent_size:
        height, width = (side * WAN21.spatial_stride for side in samples.shape[-2:])
        raise ValueError(
            f"start is {width}x{height} pixels, but width and height say {latent_size[1] * WAN21.spatial_stride}x"
            f"{latent_size[0] * WAN21.spatial_stride}. Set them to {width} and {height}, or scale the picture before "
            "VAE Encode."
        )
    return samples


def to_model_space(model: ModelPatcher, samples: Tensor) -> Tensor:
    """Return what the MODEL sees of VAE-space latents, float32 on the CPU."""
    return latent_format(model).process_in(samples.to("cpu", torch.float32))


def to_latent(model: ModelPatcher, latents: Tensor) -> Latent:
    """Latents from model space as a LATENT of their own, where ComfyUI keeps what passes between nodes."""
    return {"samples": latent_format(model).process_out(latents).to(intermediate_device())}
