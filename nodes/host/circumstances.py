"""What decides the bits of a film besides weights, settings and texts: where and how a MODEL computes."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from typing import Any

import comfy.model_management as memory
import torch
from comfy.cli_args import args
from comfy.model_patcher import ModelPatcher

from .attention import attention_kernel
from .callables import described
from .identity import model_values
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
        "values": model_values(model),
        "fast": str(sorted(map(str, getattr(args, "fast", None) or ()))),
    }
    for name, change in _changes(model):
        told = described(change)
        if told is None:
            # Nothing tells what it does: such a film is kept, but never taken for another.
            logger.warning("This MODEL is changed by %s: finished chunks are not found again.", name)
            told = secrets.token_hex(16)
        found[name] = told
    return found


def _changes(model: ModelPatcher) -> Iterator[tuple[str, Any]]:
    """What other nodes have put into a MODEL that its weights do not show: a name and the thing itself."""
    yield "attention", attention_kernel(model.model_options.get("transformer_options", {}))
    for name, injections in sorted((getattr(model, "injections", None) or {}).items()):
        yield f"injection {name}", injections
    for moment, by_key in sorted((getattr(model, "callbacks", None) or {}).items()):
        for key, callbacks in sorted(by_key.items(), key=lambda item: str(item[0])):
            if callbacks:
                yield f"callback {moment} {key}", callbacks


def _weights(model: ModelPatcher) -> str:
    """The kinds of layers and weights: the same numbers in eight bits, or multiplied another way, make another film."""
    kinds = set()
    for module in model.model.diffusion_model.modules():
        for weight in module._parameters.values():
            if weight is not None:
                layer = type(module)
                kinds.add(f"{layer.__module__}.{layer.__qualname__} {type(weight.data).__name__} {weight.dtype}")
    return "; ".join(sorted(kinds))
