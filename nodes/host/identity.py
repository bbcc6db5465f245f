"""Which model a state belongs to: a fingerprint of what the weights say, whatever form they are held in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from .network import named_weights

NUM_RUNS = 8
"""Places in a weight that are looked at, spread evenly."""
RUN_LENGTH = 512
"""Neighbouring values read at each place; neighbours, so that a memory-mapped file is barely touched."""


def model_identity(model: ModelPatcher) -> str:
    """Hexadecimal fingerprint of the transformer's weights and of the LoRAs patched onto them.

    Of the weights it reads the signs of a sample. A cast keeps signs, so the same file has the same identity on a GPU
    in bf16, on a CPU in float32 and in fp8, loaded or not, while any other checkpoint differs in some of the hundred
    thousands of signs. LoRAs are hashed by value and strength. Weights that a LoRA is already merged into are read
    from the copies that ComfyUI keeps of the originals.
    """
    digest = _weights_digest(model, _signs)
    for name in sorted(model.patches):
        digest.update(name.encode())
        for part in _patch_parts(model.patches[name]):
            digest.update(part)
    return digest.hexdigest()[:32]


def model_values(model: ModelPatcher) -> str:
    """Hexadecimal fingerprint of what the transformer's weights are to the last bit: another one for each form of a
    file."""
    return _weights_digest(model, _values).hexdigest()[:32]


def module_values(module: nn.Module) -> str:
    """The same of a module."""
    digest = hashlib.sha256()
    for name, weight in sorted(module.state_dict().items()):
        digest.update(_weight_part(name, weight, _values))
    return digest.hexdigest()[:32]


def _weights_digest(model: ModelPatcher, read: Callable[[Tensor], bytes]) -> hashlib._Hash:
    digest = hashlib.sha256()
    for name, own_name, parameter in sorted(named_weights(model.model.diffusion_model)):
        original = model.backup.get(f"diffusion_model.{own_name}")
        digest.update(_weight_part(name, parameter if original is None else original.weight, read))
    return digest


def _sample(tensor: Tensor) -> Tensor:
    """Up to NUM_RUNS * RUN_LENGTH values of a tensor, as float32 on the CPU."""
    flat = tensor.flatten()
    if flat.numel() <= NUM_RUNS * RUN_LENGTH:
        return flat.float().cpu()
    last = flat.numel() - RUN_LENGTH
    starts = (run * last // (NUM_RUNS - 1) for run in range(NUM_RUNS))
    return torch.cat([flat[start : start + RUN_LENGTH].float() for start in starts]).cpu()


def _weight_part(name: str, weight: Tensor, read: Callable[[Tensor], bytes]) -> bytes:
    """What a weight adds to a fingerprint: its name, its shape, and what is read of a sample."""
    return f"{name}{tuple(weight.shape)}".encode() + read(_sample(weight.detach()))


def _signs(sample: Tensor) -> bytes:
    return np.packbits(torch.signbit(sample).numpy()).tobytes()


def _values(sample: Tensor) -> bytes:
    return sample.numpy().tobytes()


def _patch_parts(value: Any) -> Iterator[bytes]:
    """Everything in ComfyUI's list of patches that decides their effect: factors, strengths, offsets."""
    if isinstance(value, Tensor):
        yield f"{tuple(value.shape)}".encode()
        yield _values(_sample(value.detach()))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _patch_parts(item)
    elif hasattr(value, "weights"):
        yield type(value).__name__.encode()
        yield from _patch_parts(value.weights)
    elif not callable(value):
        yield repr(value).encode()
