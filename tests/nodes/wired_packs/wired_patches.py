"""Patches, wrappers and callbacks of other packs; those that can act on a rollout act by a strength."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor, nn

logger = logging.getLogger(__name__)

LEAF = "diffusion_model.blocks.0.self_attn.v"


class _ModelNode:
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "patch", "wired"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        strength = ("FLOAT", {"default": 0.5, "min": 0.0, "max": 10.0, "step": 0.01})
        return {"required": {"model": ("MODEL",), "strength": strength}}


class LeafLayer(_ModelNode):
    """An object patch that exchanges a layer for another one."""

    def patch(self, model: Any, strength: float) -> tuple[Any]:
        model = model.clone()
        layer = copy.deepcopy(model.get_model_object(LEAF))
        layer.weight = nn.Parameter(layer.weight.detach() * strength, requires_grad=False)
        model.add_object_patch(LEAF, layer)
        return (model,)


class LeafForward(_ModelNode):
    """An object patch that exchanges what a layer does."""

    def patch(self, model: Any, strength: float) -> tuple[Any]:
        model = model.clone()
        forward = model.get_model_object(f"{LEAF}.forward")

        def weaker(x: Tensor) -> Tensor:
            return forward(x) * strength

        model.add_object_patch(f"{LEAF}.forward", weaker)
        return (model,)


class WeightWrapper(_ModelNode):
    """A function that a layer asks for its weight each time."""

    def patch(self, model: Any, strength: float) -> tuple[Any]:
        model = model.clone()

        def weaker(weight: Tensor) -> Tensor:
            return weight * strength

        model.add_weight_wrapper(f"{LEAF}.weight", weaker)
        return (model,)


class ControlDiff(_ModelNode):
    """A difference that is wider than the weight, which ComfyUI pads: 32 channels into the first layer."""

    def patch(self, model: Any, strength: float) -> tuple[Any]:
        model = model.clone()
        name = "diffusion_model.patch_embedding.weight"
        out, channels, *rest = model.get_model_object(name).shape
        wider = torch.zeros(out, 2 * channels, *rest)
        wider[:, :channels] = torch.randn(out, channels, *rest, generator=torch.Generator().manual_seed(3)) * 0.02
        model.add_patches({name: ("diff", (wider, {"pad_weight": True}))}, strength)
        return (model,)


class BlockPatches(_ModelNode):
    """What FreeU sets: functions for the blocks of a U-Net, which a transformer does not call."""

    def patch(self, model: Any, strength: float) -> tuple[Any]:
        model = model.clone()

        def output_block_patch(hidden: Tensor, skip: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
            return hidden * strength, skip

        model.set_model_output_block_patch(output_block_patch)
        model.set_model_input_block_patch(lambda hidden, options: hidden * strength)
        return (model,)


class AttentionPatches(_ModelNode):
    """Functions beside and in the place of the attentions of single blocks."""

    def patch(self, model: Any, strength: float) -> tuple[Any]:
        model = model.clone()

        def weaker(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
            return q * strength, k, v

        model.set_model_attn1_patch(weaker)
        model.set_model_attn2_patch(weaker)
        model.set_model_attn1_replace(lambda q, k, v, options: v, "double_block", 0)
        model.set_model_attn2_replace(lambda q, k, v, options: v, "double_block", 0)
        return (model,)


class SelfAttentionForward(_ModelNode):
    """Object patches for what whole attentions do, bound to them: KJNodes' Enhance-A-Video."""

    def patch(self, model: Any, strength: float) -> tuple[Any]:
        model = model.clone()
        for index, block in enumerate(model.get_model_object("diffusion_model").blocks):
            forward = type(block.self_attn).forward

            def enhanced(module: nn.Module, *args: Any, forward: Callable[..., Tensor] = forward, **kwargs: Any) -> Any:
                return forward(module, *args, **kwargs) * strength

            name = f"diffusion_model.blocks.{index}.self_attn.forward"
            model.add_object_patch(name, enhanced.__get__(block.self_attn, type(block.self_attn)))
        return (model,)


def cached_forward(self: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
    """In the place of the transformer's own, as a step cache has it."""
    return type(self).forward_orig(self, *args, **kwargs)


class TeaCache(_ModelNode):
    """A wrapper around the model's function that exchanges the transformer's forward while it runs."""

    def patch(self, model: Any, strength: float) -> tuple[Any]:
        model = model.clone()
        transformer = model.get_model_object("diffusion_model")
        model.model_options["transformer_options"]["rel_l1_thresh"] = strength
        context = patch.multiple(transformer, forward_orig=cached_forward.__get__(transformer, type(transformer)))

        def unet_wrapper_function(model_function: Callable[..., Tensor], given: dict[str, Any]) -> Tensor:
            with context:
                return model_function(given["input"], given["timestep"], **given["c"])

        model.set_model_unet_function_wrapper(unet_wrapper_function)
        return (model,)


class Holder:
    """A step cache's memory, kept in the transformer's options."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.previous: Tensor | None = None

    def clone(self) -> Holder:
        return Holder(self.threshold)


def remembering(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """A wrapper that passes on."""
    return executor(*args, **kwargs)


class StepCache(_ModelNode):
    """What EasyCache sets: wrappers around sampling and around every call, and an object with its memory."""

    def patch(self, model: Any, strength: float) -> tuple[Any]:
        model = model.clone()
        model.model_options["transformer_options"]["wired_cache"] = Holder(strength)
        for moment in (WrappersMP.OUTER_SAMPLE, WrappersMP.CALC_COND_BATCH, WrappersMP.DIFFUSION_MODEL):
            model.add_wrapper_with_key(moment, "wired_cache", remembering)
        return (model,)


class OnLoad(_ModelNode):
    """A callback for the moment at which the weights are loaded."""

    def patch(self, model: Any, strength: float) -> tuple[Any]:
        model = model.clone()

        def loaded(patcher: Any, *args: Any) -> None:
            logger.info("loaded with strength %g", strength)

        model.add_callback(CallbacksMP.ON_LOAD, loaded)
        return (model,)


class Note(_ModelNode):
    """Entries of another pack's own, which its own sampler would read."""

    def patch(self, model: Any, strength: float) -> tuple[Any]:
        model = model.clone()
        model.model_options["wired_note"] = strength
        model.set_attachments("wired_attachment", strength)
        return (model,)


class NoteOnPrompt:
    """The same on CONDITIONING."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("CONDITIONING",), "patch", "wired"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"conditioning": ("CONDITIONING",)}}

    def patch(self, conditioning: Any) -> tuple[Any]:
        return ([[text, {**extras, "wired_note": 1}] for text, extras in conditioning],)


class TorchSettings(_ModelNode):
    """Callbacks that set a global of torch for the time of sampling: KJNodes'."""

    def patch(self, model: Any, strength: float) -> tuple[Any]:
        model = model.clone()

        def enable(patcher: Any) -> None:
            torch.backends.cuda.matmul.allow_fp16_accumulation = True

        def disable(patcher: Any) -> None:
            torch.backends.cuda.matmul.allow_fp16_accumulation = False

        if strength > 0:
            model.add_callback(CallbacksMP.ON_PRE_RUN, enable)
            model.add_callback(CallbacksMP.ON_CLEANUP, disable)
        else:
            model.add_callback(CallbacksMP.ON_PRE_RUN, disable)
        return (model,)


NODE_CLASS_MAPPINGS = {
    "WiredLeafLayer": LeafLayer,
    "WiredLeafForward": LeafForward,
    "WiredWeightWrapper": WeightWrapper,
    "WiredControlDiff": ControlDiff,
    "WiredBlockPatches": BlockPatches,
    "WiredAttentionPatches": AttentionPatches,
    "WiredSelfAttentionForward": SelfAttentionForward,
    "WiredTeaCache": TeaCache,
    "WiredStepCache": StepCache,
    "WiredOnLoad": OnLoad,
    "WiredNote": Note,
    "WiredNoteOnPrompt": NoteOnPrompt,
    "WiredTorchSettings": TorchSettings,
}
