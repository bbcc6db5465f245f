"""What is wired: a MODEL as this very clone of it is, whatever other clones have left in the modules that they share.

ComfyUI loads a file once and hands out clones. All of them share one tree of modules, and that tree carries what the
clone that was loaded last put there: weights with its LoRAs, and its object patches. What is asked of a MODEL before
it is loaded is therefore asked here, where a clone's own patches come first, then the originals that ComfyUI keeps
while something else stands in their place, and then the tree.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...sfpp_core.checkpoint import expected_shapes
from ...sfpp_core.wan.config import WAN21, WanConfig, infer_config

ROOT = "diffusion_model"
"""The transformer's name in a MODEL; names of patches begin with it."""
COMPILED = "_orig_mod"
"""Name under which torch.compile keeps the module that it wraps."""
CALLED = re.compile(
    r"(patch_embedding|text_embedding|time_embedding|time_projection|head\.(norm|head|modulation)"
    r"|blocks\.\d+\.(norm[123]|ffn|modulation|(self|cross)_attn\.(q|k|v|o|norm_q|norm_k)))(\.|$)"
)
"""Names of the modules that the core's forward pass calls, of the parameters that it reads, and of all below them."""
HOLDING = re.compile(r"(diffusion_model|head|blocks(\.\d+(\.(self|cross)_attn)?)?)$")
"""Names of the modules that hold such, the transformer itself included."""
COMPUTE_DTYPE = "manual_cast_dtype"
"""The object patch that says in which number format a MODEL computes."""
WHAT_FITS = "Wire a Wan 2.1 text-to-video model (1.3B or 14B), from SFPP Load Model or Load Diffusion Model."


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weight:
    """A weight as it is before any LoRA."""

    name: str
    """Wan 2.1's own."""
    layer: nn.Module
    """The module that holds it."""
    value: Tensor | None
    """In the form in which it is kept: of any number format, quantised, or packed by another pack. None where a
    linear layer keeps it under names of its own."""

    @property
    def is_packed(self) -> bool:
        """Return whether only the layer knows what numbers the value stands for."""
        return self.value is None or not self.value.is_floating_point()

    @property
    def is_quantised(self) -> bool:
        """Return whether it is one of ComfyUI's own quantised tensors, which look like floating-point ones."""
        return hasattr(self.value, "_qdata")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape as a matrix; packed bytes have another one."""
        if self.is_packed and self.name.endswith(".weight") and (sizes := linear_sizes(self.layer)):
            return sizes
        return tuple(self.value.shape)


def linear_sizes(layer: nn.Module) -> tuple[int, int] | None:
    """Values that come out of a linear layer and go in; None of another layer."""
    sizes = getattr(layer, "out_features", None), getattr(layer, "in_features", None)
    return sizes if all(isinstance(size, int) for size in sizes) else None


def uncompiled(module: nn.Module) -> nn.Module:
    """The module itself where torch.compile has wrapped it."""
    while (inner := module._modules.get(COMPILED)) is not None:
        module = inner
    return module


def plain_name(name: str) -> str:
    """A weight's or module's name without what torch.compile puts into it."""
    return ".".join(part for part in name.split(".") if part != COMPILED)


def wired_weights(model: ModelPatcher) -> Iterator[Weight]:
    """The weights of a MODEL's transformer, in the order of its modules; none if it has no transformer."""
    overlay = _overlay(model)
    originals = {plain_name(key): kept.weight for key, kept in model.backup.items()}
    tree = getattr(model.model, ROOT, None)
    root = overlay.get(ROOT, tree)
    if isinstance(root, nn.Module) and isinstance(tree, nn.Module):
        yield from _weights_below(root, tree, ROOT, overlay, originals)


def compute_dtype(model: ModelPatcher) -> torch.dtype:
    """Return what ComfyUI computes in with this MODEL, as ModelComputeDtype or a loader has set it."""
    cast = model.get_model_object(COMPUTE_DTYPE)
    return model.model.get_dtype() if cast is None else cast


def latent_format(model: ModelPatcher) -> Any:
    """Return how latents of a MODEL and of its VAE become each other: Wan 2.1's, or what a node put in its place."""
    return model.object_patches_backup.get("latent_format", model.model.latent_format)


def castable(model: ModelPatcher) -> ModelPatcher:
    """The MODEL, or a clone of it whose layers cast their weights to the number format that it computes in.

    ComfyUI's layers do so only if it loaded them for that or was told to; a loader of another pack may ask for one
    format and not tell.
    """
    wanted = compute_dtype(model)
    # With dynamic VRAM, which ComfyUI has from 0.12 on, every layer casts.
    casts = model.force_cast_weights or (hasattr(model, "is_dynamic") and model.is_dynamic())
    if casts or not any(_is_stiff(weight, wanted) for weight in wired_weights(model)):
        return model
    clone = model.clone()
    clone.force_cast_weights = True
    # What ComfyUI compares to see whether the weights that are loaded will do.
    clone.patches_uuid = uuid.uuid4()
    return clone


def _is_stiff(weight: Weight, wanted: torch.dtype) -> bool:
    """Return whether a linear layer of ComfyUI's could not be given numbers of the wanted format."""
    if linear_sizes(weight.layer) is None or weight.is_packed or weight.is_quantised:
        return False
    return not getattr(type(weight.layer), "comfy_cast_weights", True) and weight.value.dtype != wanted


def acts(model: ModelPatcher, name: str) -> bool:
    """Return whether a rollout does anything with the object patch `name` of a MODEL, its number format apart.

    The core's pass calls the layers, not the blocks and attention modules that hold them: what is put in the place of
    such a module acts by its layers, and one that is only compiled is passed by.
    """
    inside = plain_name(name).removeprefix(f"{ROOT}.")
    if inside == plain_name(name) and inside != ROOT:
        return False
    if CALLED.match(inside):
        return True
    patch = model.object_patches[name]
    return HOLDING.match(inside) is not None and isinstance(patch, nn.Module) and uncompiled(patch) is patch


def wan_config(model: ModelPatcher) -> WanConfig:
    """The sizes of a MODEL's transformer.

    Raises ValueError, saying what the MODEL is, if the sampler cannot run it, also if a patch would make it so.
    """
    shapes = {weight.name: weight.shape for weight in wired_weights(model)}
    try:
        config = infer_config(shapes)
    except (KeyError, ValueError) as error:
        raise ValueError(f"MODEL is {type(model.model).__name__}, which is not Wan 2.1. {WHAT_FITS}") from error
    if reason := _why_unfit(shapes, config):
        raise ValueError(f"MODEL is {reason}. {WHAT_FITS}")
    _refuse_reshaping(model, shapes)
    return config


def _overlay(model: ModelPatcher) -> dict[str, Any]:
    """Return what stands in this clone where the shared tree may have something else, by name."""
    both = {**model.object_patches_backup, **model.object_patches}
    return {plain_name(name): thing for name, thing in both.items()}


def _modules_below(
    module: nn.Module, path: str, overlay: Mapping[str, Any], *, in_tree: bool
) -> Iterator[tuple[str, nn.Module, bool]]:
    """Names and modules, and whether the shared tree has just these at present."""
    module = uncompiled(module)
    yield path, module, in_tree
    for name, child in module._modules.items():
        there = overlay.get(f"{path}.{name}", child)
        if isinstance(there, nn.Module):
            is_there = child is not None and uncompiled(there) is uncompiled(child)
            yield from _modules_below(there, f"{path}.{name}", overlay, in_tree=in_tree and is_there)


def _weights_below(
    module: nn.Module, tree: nn.Module, path: str, overlay: Mapping[str, Any], originals: Mapping[str, Tensor]
) -> Iterator[Weight]:
    in_tree = uncompiled(module) is uncompiled(tree)
    for module_path, layer, is_there in _modules_below(module, path, overlay, in_tree=in_tree):
        held = {name: layer._parameters.get(name, layer._buffers.get(name)) for name in _names(layer)}
        for name, value in held.items():
            full = f"{module_path}.{name}"
            # What ComfyUI keeps of weights with LoRAs on them belongs to the layers in the tree.
            value = overlay.get(full, originals.get(full, value) if is_there else value)
            if value is not None or (name == "weight" and linear_sizes(layer)):
                yield Weight(name=full.removeprefix(f"{ROOT}."), layer=layer, value=value)


def _names(layer: nn.Module) -> list[str]:
    """Names of a layer's weights; those of a linear layer also where another pack has made buffers of them."""
    if "weight" in layer._parameters or linear_sizes(layer) is None:
        return list(layer._parameters)
    return list(dict.fromkeys(["weight", *layer._parameters, *layer._buffers]))


def _why_unfit(shapes: Mapping[str, tuple[int, ...]], config: WanConfig) -> str | None:
    if any(name.startswith("img_emb.") for name in shapes):
        return "an image-to-video model, which expects an image embedding at every step"
    if config.out_channels != WAN21.channels:
        return f"a model of {config.out_channels}-channel latents (Wan 2.2 5B, for example)"
    if config.in_channels != WAN21.channels:
        return f"an image-to-video or inpainting model: it takes {config.in_channels} channels instead of 16"
    expected = expected_shapes(config)
    layers = {name.rpartition(".")[0] for name in expected if name.endswith(".weight")}
    # A quantised layer may keep scales beside its weight.
    extra = sorted(name for name in shapes if name not in expected and name.rpartition(".")[0] not in layers)
    if extra:
        return f"a variant of Wan with parts of its own ({extra[0]} and {len(extra) - 1} more weights)"
    if missing := sorted(expected.keys() - shapes.keys()):
        return f"a variant of Wan that lacks weights ({missing[0]} and {len(missing) - 1} more)"
    return None


def _refuse_reshaping(model: ModelPatcher, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError if a LoRA or another patch on the MODEL gives a weight another shape."""
    for key, patches in model.patches.items():
        name = plain_name(key).removeprefix(f"{ROOT}.")
        shape = shapes.get(name)
        patched = None if shape is None else _patched_shape(patches, shape, key)
        if patched != shape:
            raise ValueError(
                f"a LoRA or another patch on MODEL changes the shape of {name} from {_spoken(shape)} to "
                f"{_spoken(patched)}, as control LoRAs do. This sampler has no control input for it. Take the node "
                "that adds it (a LoRA loader, most likely) out of the wire to MODEL."
            )


def _patched_shape(patches: list[Any], shape: tuple[int, ...], key: str) -> tuple[int, ...]:
    """The shape of a weight once these patches of ComfyUI's are on it.

    ComfyUI can tell this itself from 0.30 on.
    """
    for _, patch, _, offset, _ in patches:
        if offset is not None or isinstance(patch, list):
            continue
        if hasattr(patch, "weights"):
            wanted = patch.calculate_shape(key) if hasattr(patch, "calculate_shape") else _reshape_of(patch)
            shape = shape if wanted is None else tuple(wanted)
        elif len(patch) == 2 and patch[0] == "diff":
            difference, *settings = patch[1]
            shape = tuple(difference.shape) if settings and settings[0].get("pad_weight") else shape
    return shape


def _reshape_of(adapter: Any) -> tuple[int, ...] | None:
    """The shape that a LoRA asks for, which lies among its factors: a list of whole numbers."""
    for part in adapter.weights:
        if isinstance(part, (list, tuple, torch.Size)) and part and all(isinstance(size, int) for size in part):
            return tuple(part)
    return None


def _spoken(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
