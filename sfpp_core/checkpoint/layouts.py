"""The layouts that Wan 2.1 weights are published in, and the way from each to Wan 2.1's own names.

Training files keep the weights in a dictionary under a part's name (`generator`, `generator_ema`, ...), with the
wrapper module's `model.` in front and, where FSDP, activation checkpointing or torch.compile was on, their markers
anywhere inside. ComfyUI files put `diffusion_model.` in front. diffusers has names of its own. Files of other models
are recognised too, so that an error can say what they are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from torch import Tensor

from ..wan.config import WAN21, WanConfig
from .errors import CheckpointError, first_few
from .files import Archive, refuse_hollow

Layout = Literal["wan", "comfyui", "training", "diffusers", "sfpp"]
"""Whose names a file has: Wan's own, ComfyUI's repackaging, a training run's of the Self-Forcing family, diffusers',
or this project's (Wan's own names, settings in the header)."""

EMA_PART = "generator_ema"
LIVE_PART = "generator"
CONTAINER_PARTS = ("model", "state_dict")
TRAINING_PREFIXES = tuple(f"{part}." for part in (EMA_PART, LIVE_PART, "critic"))
WRAPPER_MARKERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
COMFYUI_PREFIX = "diffusion_model."
ALL_IN_ONE_PREFIX = f"model.{COMFYUI_PREFIX}"
COMPANION_PREFIXES = ("first_stage_model.", "cond_stage_model.", "text_encoders.", "vae.")
"""What else an all-in-one ComfyUI checkpoint holds; ComfyUI's own loaders read those parts."""
WRAPPER_PREFIXES = ("model.", "module.")
MAX_NESTING = 8
"""Dictionaries within each other; published files have two. A pickle's dictionary can even contain itself."""

DIFFUSERS_SIGN = "condition_embedder."
BLOCK_NAME = re.compile(r"(blocks\.\d+\.)(.+)")
DIFFUSERS_TOP = {
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "scale_shift_table": "head.modulation",
    "proj_out": "head.head",
}
DIFFUSERS_BLOCK = {
    # diffusers numbers the norms in the order of use; Wan calls the one before cross-attention norm3.
    "norm2": "norm3",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "scale_shift_table": "modulation",
} | {
    f"{theirs}.{their_part}": f"{ours}.{our_part}"
    for theirs, ours in (("attn1", "self_attn"), ("attn2", "cross_attn"))
    for their_part, our_part in (
        ("to_q", "q"),
        ("to_k", "k"),
        ("to_v", "v"),
        ("to_out.0", "o"),
        ("norm_q", "norm_q"),
        ("norm_k", "norm_k"),
    )
}


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedWeights:
    """Weights under Wan 2.1's names as far as their layout is known; whether they are complete is not yet said."""

    path: Path
    """What the user asked for; named in every error."""
    tensors: dict[str, Tensor]
    layout: Layout
    part: str | None
    """The part of a training file that was taken, such as `generator_ema`."""
    renamed: Mapping[str, str]
    """The file's own name of every weight, to its new one."""


def name_weights(archive: Archive, *, prefer_ema: bool) -> NamedWeights:
    """Find the transformer's weights in the archive and give them Wan 2.1's names. Raises CheckpointError."""
    stored, part = _select_part(archive, prefer_ema)
    refuse_hollow(archive.path, stored)
    names, layout = _wan_names(stored)
    if part is not None and layout == "wan":
        layout = "training"
    tensors: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if (new_name := names.get(name)) is None:
            continue
        if new_name in tensors:
            raise CheckpointError(
                archive.path,
                found=f"two weights that both stand for {new_name} (one is {name})",
                remedy="The file mixes two layouts; use the publisher's original file.",
            )
        tensors[new_name] = tensor.detach()
    return NamedWeights(path=archive.path, tensors=tensors, layout=layout, part=part, renamed=names)


def _select_part(archive: Archive, prefer_ema: bool) -> tuple[dict[str, Tensor], str | None]:
    """Descend through nested dictionaries to the wanted weights."""
    generators = (EMA_PART, LIVE_PART) if prefer_ema else (LIVE_PART, EMA_PART)
    order = (*generators, *CONTAINER_PARTS)
    content, part = _nest_parts(archive.content), None
    for _ in range(MAX_NESTING):
        inner = next((name for name in order if _holds_weights(content.get(name))), None)
        if inner is None:
            break
        content, part = _nest_parts(content[inner]), inner
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        _refuse_parts(archive, sorted(str(name) for name, value in content.items() if _holds_weights(value)))
    return tensors, part


def _holds_weights(value: object) -> bool:
    """Return whether `value` may be the wanted part; runs store empty parts and settings under the same names too."""
    return isinstance(value, Mapping) and any(isinstance(entry, Tensor | Mapping) for entry in value.values())


def _nest_parts(content: Mapping[str, object]) -> Mapping[str, object]:
    """Undo the flattening of a training file that was rewritten as safetensors, which cannot nest."""
    if not all(str(name).startswith(TRAINING_PREFIXES) for name in content):
        return content
    parts: dict[str, dict[str, object]] = {}
    for name, value in content.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = value
    return parts


def _refuse_parts(archive: Archive, parts: list[str]) -> NoReturn:
    if not parts:
        raise CheckpointError(
            archive.path,
            found="a file without a single tensor",
            remedy="Choose the file with the transformer's weights.",
        )
    if "generator_lora" in parts:
        raise CheckpointError(
            archive.path,
            found="a LoRA of LongLive's training (generator_lora), which changes a model but is none",
            remedy="Load longlive_base.pt as the model; docs/checkpoints.md says how to rewrite this file for "
            "LoraLoaderModelOnly.",
        )
    if any(part.startswith(("critic", "fake_score")) for part in parts):
        raise CheckpointError(
            archive.path,
            found=f"the critic's side of a training run only ({first_few(parts)})",
            remedy="The critic scores videos and cannot make them; use the file with `generator` or `generator_ema`.",
        )
    raise CheckpointError(
        archive.path,
        found=f"a training file with the parts {first_few(parts)}",
        expected="one of generator_ema, generator, model or state_dict",
        remedy="Use the file that the training's own inference script loads.",
    )


def _wan_names(stored: Iterable[str]) -> tuple[dict[str, str], Layout]:
    """New name of every stored name, without those that belong to other parts of an all-in-one checkpoint."""
    names = {name: _without_markers(name) for name in stored}
    layout: Layout = "wan" if all(name == clean for name, clean in names.items()) else "training"
    if any(clean.startswith(ALL_IN_ONE_PREFIX) for clean in names.values()):
        names = {
            name: clean.removeprefix(ALL_IN_ONE_PREFIX)
            for name, clean in names.items()
            if not clean.startswith(COMPANION_PREFIXES)
        }
        layout = "comfyui"
    while prefix := _common_prefix(names.values()):
        names = {name: clean.removeprefix(prefix) for name, clean in names.items()}
        layout = "comfyui" if prefix == COMFYUI_PREFIX else "training"
    if any(clean.startswith(DIFFUSERS_SIGN) for clean in names.values()):
        return {name: _from_diffusers(clean) for name, clean in names.items()}, "diffusers"
    return names, layout


def _without_markers(name: str) -> str:
    for marker in WRAPPER_MARKERS:
        name = name.replace(marker, "")
    return name


def _common_prefix(names: Iterable[str]) -> str | None:
    names = list(names)
    for prefix in (COMFYUI_PREFIX, *WRAPPER_PREFIXES):
        if names and all(name.startswith(prefix) for name in names):
            return prefix
    return None


def _from_diffusers(name: str) -> str:
    block = BLOCK_NAME.match(name)
    scope, rest = block.groups() if block else ("", name)
    table = DIFFUSERS_BLOCK if block else DIFFUSERS_TOP
    for theirs, ours in table.items():
        if rest == theirs or rest.startswith(f"{theirs}."):
            return f"{scope}{ours}{rest[len(theirs) :]}"
    return name


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
