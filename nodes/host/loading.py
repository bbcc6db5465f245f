"""Checkpoint files as ComfyUI's own MODEL objects."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QUANT_ALGOS

from ...sfpp_core.checkpoint import PRESETS, Checkpoint, CheckpointError, open_checkpoint
from ...sfpp_core.checkpoint.errors import first_few
from ...sfpp_core.checkpoint.quantization import MARKER
from .origins import comfyui_version
from .sampling import PRESET_OPTION

logger = logging.getLogger(__name__)

WEIGHT_DTYPES: dict[str, torch.dtype | None] = {
    "default": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
"""What the weights may be stored in; `default` leaves the choice to ComfyUI."""

AUTO_PRESET = "auto"
"""Take the preset that the file carries in its header or that its name tells."""

PRESET_CHOICES = (AUTO_PRESET, *PRESETS)


def load_model(
    path: str, weight_dtype: str, prefer_ema: bool, preset: str, *, disable_dynamic: bool = False
) -> ModelPatcher:
    """The checkpoint at `path`, of any layout that `sfpp_core.checkpoint` knows, as ComfyUI loads a diffusion model.

    `disable_dynamic`: asked for by ComfyUI (0.12 and later) when it wants a copy without dynamic VRAM.
    Raises CheckpointError if the file is no Wan 2.1 text-to-video checkpoint, or one in a format that this ComfyUI
    does not know, ValueError for an unknown option.
    """
    _require_choice("weight_dtype", weight_dtype, WEIGHT_DTYPES)
    _require_choice("preset", preset, PRESET_CHOICES)
    checkpoint = open_checkpoint(Path(path), prefer_ema=prefer_ema)
    _require_known_formats(Path(path), checkpoint.quantization)
    model = comfy.sd.load_diffusion_model_state_dict(
        checkpoint.state_dict, **_load_options(checkpoint, WEIGHT_DTYPES[weight_dtype], disable_dynamic)
    )
    chosen = checkpoint.preset if preset == AUTO_PRESET else PRESETS[preset]
    model.model_options[PRESET_OPTION] = chosen
    # With this ComfyUI 0.12 and later can make the model anew: for copies without dynamic VRAM or on another device.
    model.cached_patcher_init = (load_model, (path, weight_dtype, prefer_ema, preset))
    logger.info("%s: layout %s, preset %s", Path(path).name, checkpoint.layout, chosen.name if chosen else "none")
    if chosen is not None and chosen.differs:
        logger.info("%s: %s", chosen.name, chosen.differs)
    return model


def _load_options(checkpoint: Checkpoint, dtype: torch.dtype | None, disable_dynamic: bool) -> dict[str, Any]:
    """Keyword arguments for this ComfyUI's loader."""
    options: dict[str, Any] = {"model_options": {} if dtype is None else {"dtype": dtype}}
    # A `config` in the header makes ComfyUI pick a class of its own, and an unknown key in it stops the loading; the
    # weights alone say all we need. The rest of the header describes quantised layers.
    options["metadata"] = {key: value for key, value in checkpoint.metadata.items() if key != "config"}
    if "disable_dynamic" in inspect.signature(comfy.sd.load_diffusion_model_state_dict).parameters:
        options["disable_dynamic"] = disable_dynamic
    return options


def _require_known_formats(path: Path, formats: tuple[str, ...]) -> None:
    """Raise CheckpointError if some layers are quantised in a way that this ComfyUI cannot read."""
    if unknown := [name for name in formats if name != MARKER and name not in QUANT_ALGOS]:
        raise CheckpointError(
            path,
            found=f"weights quantised as {first_few(unknown)}",
            expected=f"a format that this ComfyUI ({comfyui_version()}) knows ({', '.join(QUANT_ALGOS)}), or plain "
            "weights",
            remedy="Update ComfyUI, or take the same model as bf16, fp16 or scaled fp8.",
        )


def _require_choice(widget: str, value: str, choices: Any) -> None:
    # ComfyUI before 0.8 does not check the combos of V3 nodes.
    if value not in choices:
        raise ValueError(f"{widget} is {value!r}; choose one of {', '.join(choices)}.")
