"""SFPP Load Model: a Wan 2.1 text-to-video checkpoint of any published layout as MODEL."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import io

from .host.loading import AUTO_PRESET, PRESET_CHOICES, WEIGHT_DTYPES, load_model
from .vocabulary import CATEGORY, search_aliases

FOLDER = "diffusion_models"


class LoadModel(io.ComfyNode):
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
                    tooltip="If the file holds both, load the averaged weights (EMA), which make steadier films, "
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
