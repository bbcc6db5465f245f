"""Naming files that are not a Wan 2.1 text-to-video transformer, so that an artist learns what to choose instead."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ..wan.config import WanConfig
from ..wan.geometry import WAN21
from .errors import CheckpointError

LORA_NAME = re.compile(r"\.lora_(A|B|up|down)\b|^lora_unet_|\.(lokr|hada)_|\.diff(_b)?$")
PEFT_PREFIX = "base_model.model."
WAN_SIGNS = ("head.modulation", "blocks.0.self_attn.q.weight", "patch_embedding.weight", "blocks.0.modulation")
"""Any of these names, and a file is of the Wan family."""

CHOOSE_T2V = "Choose a Wan 2.1 text-to-video checkpoint such as self_forcing_dmd.pt."
START_IMAGE = "A text-to-video checkpoint is enough: an image to start from goes into the sampler's start input."


@dataclass(frozen=True, slots=True)
class Sign:
    """A weight's name that gives a kind of file away."""

    pattern: re.Pattern[str]
    found: str
    remedy: str = CHOOSE_T2V


def _sign(pattern: str, found: str, remedy: str = CHOOSE_T2V) -> Sign:
    return Sign(re.compile(pattern), found, remedy)


WAN_VARIANTS = (
    _sign(r"vace_", "a Wan VACE model"),
    _sign(r"control_adapter\.", "a Wan camera-control model"),
    _sign(r"casual_audio_encoder\.", "a Wan speech-to-video model"),
    _sign(r"audio_(proj|cross_attn|model)", "a Wan model driven by audio"),
    _sign(r"face_adapter\.|pose_patch_embedding", "a Wan Animate model"),
    _sign(r"fps_embedding", "a SkyReels model with a frame-rate input"),
    _sign(r"cam_encoder|\.projector\.", "a ReCamMaster model"),
    _sign(r"ref_conv\.", "a Wan Fun control model"),
    _sign(r"img_emb\.|image_embedder\.|k_img|add_k_proj", "a Wan 2.1 image-to-video model", START_IMAGE),
)
"""Names that a Wan family file has beyond the text-to-video ones, the more telling first."""

OTHER_MODELS = (
    _sign(r"(^|\.)input_blocks\.|^down_blocks\.|^conditioner\.", "a Stable Diffusion model"),
    _sign(r"(^|\.)double_blocks\.|^single_transformer_blocks\.", "a Flux or HunyuanVideo model"),
    _sign(r"^joint_blocks\.", "a Stable Diffusion 3 model"),
    _sign(r"^transformer_blocks\.", "a diffusion transformer of another family"),
    _sign(
        r"^(encoder|decoder)\.(conv1|conv_in|downsamples|upsamples|mid|middle|up|down|up_blocks|down_blocks)\b",
        "a VAE",
        "Load it with ComfyUI's Load VAE node.",
    ),
    _sign(
        r"^(text_model|shared|token_embedding)\.|^(encoder\.)?(block|blocks)\.0\.(layer|attn)\.",
        "a text encoder",
        "Load it with ComfyUI's Load CLIP node.",
    ),
    _sign(r"^(visual|vision_model)\.", "an image encoder"),
    _sign(r"^controlnet_|^control_model\.", "a ControlNet"),
)


def refuse_lora(path: Path, names: Collection[str]) -> None:
    """Refuse a file of low-rank changes to a model."""
    count = sum(1 for name in names if LORA_NAME.search(name))
    if not count:
        return
    remedy = "Load the model it belongs to here, and add this file to it with ComfyUI's LoraLoaderModelOnly node."
    if any(name.startswith(PEFT_PREFIX) for name in names):
        remedy += " It has PEFT's names, which that node does not know for Wan: docs/checkpoints.md helps."
    raise CheckpointError(path, found=f"a LoRA ({count} of {len(names)} weights)", remedy=remedy)


def refuse_other_models(path: Path, names: Collection[str]) -> None:
    """Refuse weights that have nothing of Wan's transformer, by name if it is a known kind."""
    if any(sign in names for sign in WAN_SIGNS):
        return
    for sign in OTHER_MODELS:
        if any(sign.pattern.search(name) for name in names):
            raise CheckpointError(path, found=sign.found, remedy=sign.remedy)
    some = ", ".join(sorted(names)[:3])
    raise CheckpointError(path, found=f"weights of an unknown kind ({some}, ...)", remedy=CHOOSE_T2V)


def refuse_wan_variants(path: Path, names: Collection[str]) -> None:
    """Refuse members of the Wan family with inputs besides text."""
    for sign in WAN_VARIANTS:
        if any(sign.pattern.search(name) for name in names):
            raise CheckpointError(path, found=sign.found, remedy=sign.remedy)


def refuse_other_channels(path: Path, config: WanConfig) -> None:
    """Refuse transformers whose latents, or inputs beside the latents, are not Wan 2.1 text-to-video's."""
    channels = (config.in_channels, config.out_channels)
    if channels == (WAN21.channels, WAN21.channels):
        return
    found, remedy = f"a Wan model with {channels[0]} channels in and {channels[1]} out", CHOOSE_T2V
    if channels == (48, 48):
        found = "a Wan 2.2 5B model (48 latent channels, another VAE), such as LongLive 2's"
    elif channels == (36, 16):
        found, remedy = "a Wan image-to-video model (36 input channels)", START_IMAGE
    raise CheckpointError(path, found=found, remedy=remedy)
