"""What decides the bits of a video besides weights, settings and texts: where and how a MODEL computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import comfy.model_management as memory
import torch
from comfy.cli_args import args
from comfy.model_patcher import ModelPatcher
from torch import nn

from .attention import attention_kernel
from .callables import described
from .identity import model_values
from .origins import kernel_versions, origin_of, short_name
from .wired import ROOT, acts, compute_dtype, plain_name, wired_weights

OWN_MODULES = ("comfy.", "torch.")
"""Where layers come from whose settings ComfyUI or PyTorch decide."""
OWN_SETTINGS = ("quant_format", "_full_precision_mm")
"""Attributes of ComfyUI's own quantised layers that say how they multiply."""
SETTINGS = (type(None), bool, int, float, str, torch.dtype)
"""Types of attributes of a layer that can be settings."""
NOT_SETTINGS = ("_", "comfy_", "prev_comfy_", "seed_key", "training", "in_features", "out_features")
"""How attributes begin that are PyTorch's own, that tell how a layer is loaded at present, or that its weights tell."""
SMALL = 65536
"""Values of a buffer that are looked at, such as the scales of a packed weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """How a MODEL computes."""

    parts: dict[str, str]
    """By name; equal on every start of the same program on the same device."""
    untold: tuple[str, ...]
    """What the MODEL is changed by that does not say what it does, so that no other run can be taken for this one."""


def circumstances_of(model: ModelPatcher, upstream: str | None) -> Circumstances:
    """The circumstances of a MODEL that is loaded and ready to run.

    upstream: digest of the part of the workflow that made the MODEL, see `upstream_digest`; it stands for objects that
    may change while they work, and for those that do not tell what they do. None if there is none.
    """
    device = model.load_device
    parts = {
        "device": device.type if device.type == "cpu" else memory.get_torch_device_name(device),
        "torch": torch.__version__,
        "compute": f"{compute_dtype(model)} {getattr(model, 'force_cast_weights', False)}",
        "matrix products": str(_matrix_products()),
        "weights": _weights(model),
        "values": model_values(model),
        "kernels": str(kernel_versions()),
        "fast": str(sorted(map(str, getattr(args, "fast", None) or ()))),
    }
    untold = []
    for name, change in _changes(model):
        told = described(change, opaque=None if upstream is None else lambda thing: upstream)
        if told is None and upstream is not None:
            told = upstream
        if told is None:
            untold.append(name)
        else:
            parts[name] = told
    return Circumstances(parts=parts, untold=tuple(untold))


def _matrix_products() -> tuple[object, ...]:
    """How exact PyTorch was told to be, which some nodes change for the whole program."""
    products = torch.backends.cuda.matmul
    return (
        torch.get_float32_matmul_precision(),
        getattr(products, "allow_fp16_accumulation", None),
        products.allow_fp16_reduced_precision_reduction,
        products.allow_bf16_reduced_precision_reduction,
    )


def _changes(model: ModelPatcher) -> Iterator[tuple[str, Any]]:
    """What other nodes have put into a MODEL that its weights do not show: a name and the thing itself."""
    yield "attention", attention_kernel({})
    # Which is given ComfyUI's own, and may call it.
    yield "attention override", attention_kernel(model.model_options.get("transformer_options", {}))
    for name, patch in sorted(model.object_patches.items()):
        if acts(model, name):
            yield f"patch {name}", patch
    patched = {plain_name(name).removesuffix(".forward") for name in model.object_patches}
    for weight in wired_weights(model):
        layer = f"{ROOT}.{weight.name.rpartition('.')[0]}"
        if weight.name.endswith(".weight") and "forward" in vars(weight.layer) and layer not in patched:
            yield f"forward of {layer}", vars(weight.layer)["forward"]
    for name, wrappers in sorted((getattr(model, "weight_wrapper_patches", None) or {}).items()):
        yield f"wrapper of {name}", wrappers
    for name, injections in sorted((getattr(model, "injections", None) or {}).items()):
        yield f"injection {name}", injections
    for moment, by_key in sorted((getattr(model, "callbacks", None) or {}).items()):
        for key, callbacks in sorted(by_key.items(), key=lambda item: str(item[0])):
            if callbacks:
                yield f"callback {moment} {key}", callbacks


def _weights(model: ModelPatcher) -> str:
    """The kinds of layers and weights: the same numbers in 8 bits, or multiplied another way, make another video."""
    kinds = {
        f"{weight.name.rpartition('.')[2]} {_kind(weight.layer)} {_number_format(weight.value)}"
        for weight in wired_weights(model)
    }
    return "; ".join(sorted(kinds))


def _number_format(value: Any) -> str:
    return "" if value is None else f"{type(value.data).__name__} {value.dtype}"


def _kind(layer: nn.Module) -> str:
    """A layer's class, with its settings where it is another pack's: in what it unpacks its weights, for example."""
    kind = type(layer)
    name = f"{short_name(kind.__module__)}.{kind.__qualname__}"
    if kind.__module__.startswith(OWN_MODULES):
        return f"{name} {[getattr(layer, flag, None) for flag in OWN_SETTINGS]}"
    foreign = [
        base for base in reversed(kind.__mro__) if not f"{base.__module__}.".startswith(("builtins.", *OWN_MODULES))
    ]
    held = {key: value for base in foreign for key, value in vars(base).items()} | vars(layer)
    settings = {
        key: value for key, value in held.items() if isinstance(value, SETTINGS) and not key.startswith(NOT_SETTINGS)
    }
    buffers = {key: buffer for key, buffer in layer._buffers.items() if buffer is not None and buffer.numel() <= SMALL}
    return f"{name} {origin_of(kind.__module__)} {described(settings)} {described(buffers)}"
