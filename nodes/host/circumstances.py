"""What decides the bits of a film besides weights, settings and texts: where and how a MODEL computes."""

from __future__ import annotations

import logging
import secrets

import comfy.model_management as memory
import torch
from comfy.cli_args import args
from comfy.model_patcher import ModelPatcher

from .attention import attention_name
from .network import compute_dtype

logger = logging.getLogger(__name__)


def circumstances_of(model: ModelPatcher) -> dict[str, str]:
    """By name; equal on every start of the same program on the same device."""
    device = model.load_device
    found = {
        "device": device.type if device.type == "cpu" else memory.get_torch_device_name(device),
        "torch": torch.__version__,
        "compute": str(compute_dtype(model)),
        "weights": _weights(model),
        "fast": str(sorted(map(str, getattr(args, "fast", None) or ()))),
        "attention": attention_name(model.model_options.get("transformer_options", {})),
    }
    if injected := sorted(getattr(model, "injections", None) or ()):
        # Nothing tells what they do: such a film is kept, but never taken for another.
        logger.warning("This MODEL is changed by %s: finished chunks are not found again.", ", ".join(injected))
        found["injections"] = secrets.token_hex(16)
    return found


def _weights(model: ModelPatcher) -> str:
    """The kinds of layers and weights: the same numbers in eight bits, or multiplied another way, make another film."""
    kinds = set()
    for module in model.model.diffusion_model.modules():
        for weight in module._parameters.values():
            if weight is not None:
                layer = type(module)
                kinds.add(f"{layer.__module__}.{layer.__qualname__} {type(weight.data).__name__} {weight.dtype}")
    return "; ".join(sorted(kinds))
