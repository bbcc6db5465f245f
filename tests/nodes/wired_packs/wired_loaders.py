"""Loaders of other packs, and small sources that the tests need."""

from __future__ import annotations

from typing import Any

import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy.nested_tensor import NestedTensor

DTYPES = {"default": None, "fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


class ComputeDtypeLoader:
    """Sets on the MODEL in what it computes, and a global of torch: KJNodes' DiffusionModelLoaderKJ."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "load", "wired"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model_name": (folder_paths.get_filename_list("diffusion_models"),),
                "weight_dtype": (list(DTYPES),),
                "compute_dtype": (list(DTYPES),),
                "enable_fp16_accumulation": ("BOOLEAN", {"default": False}),
            }
        }

    def load(
        self, model_name: str, weight_dtype: str, compute_dtype: str, enable_fp16_accumulation: bool
    ) -> tuple[Any]:
        torch.backends.cuda.matmul.allow_fp16_accumulation = enable_fp16_accumulation
        dtype = DTYPES[weight_dtype]
        path = folder_paths.get_full_path_or_raise("diffusion_models", model_name)
        options = {} if dtype is None else {"dtype": dtype}
        model = comfy.sd.load_diffusion_model(path, model_options=options)
        if (compute := DTYPES[compute_dtype]) is not None:
            model.set_model_compute_dtype(compute)
            model.force_cast_weights = False
        return (model,)


class LoraSource:
    """A LoRA's tensors, which ComfyUI itself only has after training one."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("LORA_MODEL",), "load", "wired"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"lora_name": (folder_paths.get_filename_list("loras"),)}}

    def load(self, lora_name: str) -> tuple[Any]:
        return (comfy.utils.load_torch_file(folder_paths.get_full_path_or_raise("loras", lora_name)),)


class Again:
    """Passes on what it is given; another number makes ComfyUI run what comes after it once more."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("CONDITIONING",), "pass_on", "wired"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        number = ("INT", {"default": 0, "min": 0, "max": 1_000_000})
        return {"required": {"conditioning": ("CONDITIONING",), "number": number}}

    def pass_on(self, conditioning: Any, number: int) -> tuple[Any]:
        return (conditioning,)


class AgainLatent(Again):
    """The same for latents."""

    RETURN_TYPES = ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        number = ("INT", {"default": 0, "min": 0, "max": 1_000_000})
        return {"required": {"conditioning": ("LATENT",), "number": number}}


class SeveralLatents:
    """A video with its sound, as models of both have it."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("LATENT",), "join", "wired"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"video": ("LATENT",)}}

    def join(self, video: Any) -> tuple[Any]:
        return ({"samples": NestedTensor([video["samples"], torch.ones(1, 8, 16)])},)


NODE_CLASS_MAPPINGS = {
    "WiredSeveralLatents": SeveralLatents,
    "WiredComputeDtypeLoader": ComputeDtypeLoader,
    "WiredLoraSource": LoraSource,
    "WiredAgain": Again,
    "WiredAgainLatent": AgainLatent,
}
