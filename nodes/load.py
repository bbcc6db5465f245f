"""SFPP Load Model: a Wan 2.1 text-to-video checkpoint of any published layout as MODEL."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any

import comfy.sd
import folder_paths
import torch
from comfy.model_management import intermediate_device
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QUANT_ALGOS
from comfy.supported_models_base import ClipTarget
from comfy_api.latest import io
from safetensors.torch import load_file
from torch import Tensor, nn

from ..sfpp_core.checkpoint import PRESETS, Checkpoint, CheckpointError, open_checkpoint
from ..sfpp_core.checkpoint.errors import first_few
from ..sfpp_core.checkpoint.quantization import MARKER
from ..sfpp_core.tiny.family import weights_path
from ..sfpp_core.tiny.text import TinyTextEncoder, TinyTokenizer, load_text_encoder
from .comfy.callables import comfyui_version
from .comfy.sampling import PRESET_OPTION
from .widgets import CATEGORY, CheckedNode, require_choice, search_aliases

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
    require_choice("weight_dtype", weight_dtype, WEIGHT_DTYPES)
    require_choice("preset", preset, PRESET_CHOICES)
    checkpoint = _opened(Path(path), prefer_ema=prefer_ema)
    _require_known_formats(Path(path), checkpoint.quantization)
    model = comfy.sd.load_diffusion_model_state_dict(
        checkpoint.state_dict, **_load_options(checkpoint, WEIGHT_DTYPES[weight_dtype], disable_dynamic)
    )
    chosen = checkpoint.preset if preset == AUTO_PRESET else PRESETS[preset]
    model.model_options[PRESET_OPTION] = chosen
    # With this ComfyUI 0.12 and later can make the model again: for copies without dynamic VRAM or on another device.
    model.cached_patcher_init = (load_model, (path, weight_dtype, prefer_ema, preset))
    logger.info("%s: layout %s, preset %s", Path(path).name, checkpoint.layout, chosen.name if chosen else "none")
    if chosen is not None and chosen.differs:
        logger.info("%s: %s", chosen.name, chosen.differs)
    return model


def _opened(path: Path, *, prefer_ema: bool) -> Checkpoint:
    """Open a checkpoint; one that another loader may read is refused with the way round this node."""
    try:
        return open_checkpoint(path, prefer_ema=prefer_ema)
    except CheckpointError as error:
        if not error.other_loader:
            raise
        around = "The sampler takes the MODEL of any loader node, ComfyUI's own Load Diffusion Model among them."
        raise CheckpointError(
            error.path, found=error.found, expected=error.expected, remedy=f"{error.remedy} {around}", other_loader=True
        ) from error


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


FOLDER = "diffusion_models"


class SFPPLoadModel(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SFPPLoadModel",
            display_name="SFPP Load Model",
            category=CATEGORY,
            **search_aliases("self forcing", "causal", "long video", "wan", "LongLive", "checkpoint"),
            description="Loads a causal few-step Wan 2.1 model (Self-Forcing, LongLive, Causal-Forcing, ...) in "
            "whatever layout it was published, and remembers the rollout settings it was trained for.",
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=folder_paths.get_filename_list(FOLDER),
                    tooltip="Checkpoint in models/diffusion_models (or models/unet): .safetensors or .pt, of Wan 2.1 "
                    "1.3B or 14B text-to-video shape. Published training files need no conversion.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="default",
                    tooltip="Precision the weights are kept in. default: ComfyUI decides for your card. fp8 halves the "
                    "memory of bf16 and costs a little quality.",
                ),
                io.Boolean.Input(
                    "prefer_ema",
                    default=True,
                    tooltip="If the file holds both, load the averaged weights (EMA), which make steadier videos, "
                    "instead of the raw ones.",
                ),
                io.Combo.Input(
                    "preset",
                    options=list(PRESET_CHOICES),
                    default=AUTO_PRESET,
                    tooltip="Rollout settings (chunk, window, sink, steps, shift) that the model was trained for. auto "
                    "reads them from the file, or tells them by its name; choose one if you renamed the file.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    "model", display_name="model", tooltip="For SFPP Sampler; LoRA loaders may stand between."
                )
            ],
        )

    @classmethod
    def execute(cls, model_name: str, weight_dtype: str, prefer_ema: bool, preset: str) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise(FOLDER, model_name)
        return io.NodeOutput(load_model(path, weight_dtype, prefer_ema, preset))


TOKENS = "sfpp_tiny"
"""Under which name ComfyUI passes this encoder's tokens around."""

WeightedTokens = dict[str, list[list[tuple[int, float]]]]


class HostTokenizer:
    """TinyTokenizer as ComfyUI calls a tokenizer. The encoder knows no emphasis: every weight is 1."""

    def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
        self._tokenizer = TinyTokenizer()

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **options: Any) -> WeightedTokens:
        return {TOKENS: [[(token, 1.0) for token in self._tokenizer.tokenize(text)]]}

    def state_dict(self) -> dict[str, Tensor]:
        return {}


class HostTextEncoder(nn.Module):
    """TinyTextEncoder as ComfyUI calls a text encoder. It stays in float32 whatever ComfyUI would rather have."""

    def __init__(self, encoder: TinyTextEncoder, device: torch.device, dtype: Any, model_options: Any) -> None:
        super().__init__()
        self.dtypes = {torch.float32}
        self.encoder = encoder.to(device)

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """There are no layers to skip and no device to choose."""

    def reset_clip_options(self) -> None:
        """Nothing was set."""

    def encode_token_weights(self, tokens: WeightedTokens) -> tuple[Tensor, None]:
        """Text [B, L, text_dim], and no pooled output."""
        numbers = torch.tensor([[token for token, _ in prompt] for prompt in tokens[TOKENS]])
        text = self.encoder(numbers.to(next(self.encoder.parameters()).device))
        return text.to(intermediate_device()), None

    def load_sd(self, state_dict: dict[str, Tensor]) -> Any:
        return self.encoder.load_state_dict(state_dict, strict=False)


def load_tiny_model() -> ModelPatcher:
    """The student as MODEL."""
    return load_model(str(weights_path("student")), "default", True, AUTO_PRESET)


def load_tiny_clip() -> comfy.sd.CLIP:
    """The text encoder as CLIP."""
    encoder = load_text_encoder(weights_path("text_encoder"))
    target = ClipTarget(HostTokenizer, HostTextEncoder)
    target.params = {"encoder": encoder}
    return comfy.sd.CLIP(target, parameters=sum(weight.numel() for weight in encoder.parameters()))


def load_tiny_vae() -> comfy.sd.VAE:
    """The VAE, which has Wan 2.1's architecture, as VAE."""
    return comfy.sd.VAE(sd=load_file(weights_path("vae")))


class SFPPLoadTiny(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SFPPLoadTiny",
            display_name="SFPP Load Tiny",
            category=CATEGORY,
            **search_aliases("self forcing", "built-in model", "demo", "long video"),
            description="Loads the small model that comes with the pack: nothing to download, seconds of video in "
            "seconds of time on any CPU. It knows a toy world only: one coloured ball, boat, kite or lantern that "
            "moves left or right or bounces, slowly or quickly, in a desert, at sea, on a meadow or in the mountains.",
            inputs=[],
            outputs=[
                io.Model.Output("model", display_name="model", tooltip="The causal student, for SFPP Sampler."),
                io.Clip.Output("clip", display_name="clip", tooltip="Its text encoder, for CLIP Text Encode."),
                io.Vae.Output("vae", display_name="vae", tooltip="Its VAE, for SFPP Decode To Video or VAE Decode."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(load_tiny_model(), load_tiny_clip(), load_tiny_vae())
