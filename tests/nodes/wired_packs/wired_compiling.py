"""torch.compile as other packs put it into a MODEL or a VAE; the eager backend, which compiles nothing."""

from __future__ import annotations

import weakref
from typing import Any

import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers import set_torch_compile_wrapper

BACKEND = "eager"


class _ModelNode:
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "patch", "wired"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",)}}


class CompileBlocks(_ModelNode):
    """Object patches, block by block: KJNodes' first version."""

    def patch(self, model: Any) -> tuple[Any]:
        model = model.clone()
        for index, block in enumerate(model.get_model_object("diffusion_model").blocks):
            model.add_object_patch(f"diffusion_model.blocks.{index}", torch.compile(block, backend=BACKEND))
        return (model,)


class CompileWhole(_ModelNode):
    """An object patch for the whole transformer: KJNodes' first version without blocks, ComfyUI-TeaCache's."""

    def patch(self, model: Any) -> tuple[Any]:
        model = model.clone()
        whole = model.get_model_object("diffusion_model")
        model.add_object_patch("diffusion_model", torch.compile(whole, backend=BACKEND))
        return (model,)


class CompileWrapper(_ModelNode):
    """ComfyUI's own wrapper around a step, which puts the compiled blocks in for as long as it lasts: version two."""

    def patch(self, model: Any) -> tuple[Any]:
        model = model.clone()
        num_blocks = len(model.get_model_object("diffusion_model").blocks)
        keys = [f"diffusion_model.blocks.{index}" for index in range(num_blocks)]
        set_torch_compile_wrapper(model=model, backend=BACKEND, keys=keys)
        return (model,)


COMPILED_OF: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()
"""By the model that executes."""


def run_compiled(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """Exchange blocks for the compiled ones while a step runs."""
    plain = {}
    try:
        for name, compiled in COMPILED_OF.get(executor.class_obj, {}).items():
            plain[name] = comfy.utils.get_attr(executor.class_obj, name)
            comfy.utils.set_attr(executor.class_obj, name, compiled)
        return executor(*args, **kwargs)
    finally:
        for name, block in plain.items():
            comfy.utils.set_attr(executor.class_obj, name, block)


class CompileByModel(_ModelNode):
    """A wrapper of its own that finds the compiled blocks by the model at work: KJNodes' advanced node."""

    def patch(self, model: Any) -> tuple[Any]:
        model = model.clone()
        names = [f"diffusion_model.blocks.{i}" for i in range(len(model.get_model_object("diffusion_model").blocks))]
        COMPILED_OF[model.model] = {
            name: torch.compile(model.get_model_object(name), backend=BACKEND) for name in names
        }
        model.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, "torch.compile")
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "torch.compile", run_compiled)
        return (model,)


class CompileVAE:
    """Sets attributes of the shared VAE once in the life of the node: KJNodes'."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("VAE",), "patch", "wired"

    def __init__(self) -> None:
        self._compiled: set[str] = set()

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        parts = {"compile_encoder": ("BOOLEAN", {"default": True}), "compile_decoder": ("BOOLEAN", {"default": True})}
        return {"required": {"vae": ("VAE",), **parts}}

    def patch(self, vae: Any, compile_encoder: bool, compile_decoder: bool) -> tuple[Any]:
        for name, is_wanted in (("encoder", compile_encoder), ("decoder", compile_decoder)):
            if is_wanted and name not in self._compiled:
                part = getattr(vae.first_stage_model, name)
                setattr(vae.first_stage_model, name, torch.compile(part, backend=BACKEND))
                self._compiled.add(name)
        return (vae,)


class CompileWholeVAE:
    """Exchanges the network of the shared VAE."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("VAE",), "patch", "wired"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"vae": ("VAE",)}}

    def patch(self, vae: Any) -> tuple[Any]:
        vae.first_stage_model = torch.compile(vae.first_stage_model, backend=BACKEND)
        return (vae,)


NODE_CLASS_MAPPINGS = {
    "WiredCompileBlocks": CompileBlocks,
    "WiredCompileWhole": CompileWhole,
    "WiredCompileWrapper": CompileWrapper,
    "WiredCompileByModel": CompileByModel,
    "WiredCompileVAE": CompileVAE,
    "WiredCompileWholeVAE": CompileWholeVAE,
}
