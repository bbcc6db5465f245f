"""Fingerprints of a MODEL and of its environment: both are part of the key of every finished chunk.

`model_identity` names the model by its weights, in whatever form they are held, and by its LoRAs. `environment_of`
names where and how it computes: device, number format, kernels, and what other nodes have patched in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.model_management as memory
import numpy as np
import torch
from comfy.cli_args import args
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...sfpp_core.rollout.model_identity import FLOAT_BITS, ModelIdentity, sketch_of
from .callables import described, kernel_versions, origin_of, short_name
from .model import attention_kernel
from .wired import ROOT, Weight, acts, compute_dtype, linear_sizes, plain_name, wired_weights

NUM_RUNS = 8
"""Places in a weight that are looked at, spread evenly."""
RUN_LENGTH = 512
"""Neighbouring values read at each place; neighbours, so that a memory-mapped file is barely touched."""
PROBES = 8
"""Values of a linear layer that go into a sketch, and inputs that a layer is asked with."""
PROBE = 32.0
"""The one value of such an input that is not 0: large, so that the layer's bias does not round the answer away."""


FP8_BITS = {torch.float8_e4m3fn: 8.0, torch.float8_e5m2: 6.0}
"""These keep signs, but their values are as far from the original's as those of so many bits."""


def model_identity(model: ModelPatcher) -> ModelIdentity:
    """Return what tells the MODEL from another one.

    A sample of every weight is read as it is without LoRAs. Of a floating-point weight its signs count, so the same
    file has the same identity on a GPU in bfloat16, on a CPU in float32 and in fp8, loaded or not, while any other
    checkpoint differs in some of the hundred thousands of signs. A layer that only knows itself what its bytes stand
    for is asked, for which the MODEL is loaded. LoRAs are hashed by value and strength.
    """
    weights = sorted(wired_weights(model), key=lambda weight: weight.name)
    if any(_is_asked(weight) for weight in weights):
        memory.load_models_gpu([model])
    digest, patches, sketch = hashlib.sha256(), hashlib.sha256(), []
    for weight in weights:
        matrix = weight.value.dequantize() if weight.is_quantised else weight.value
        answers = _answers(model, weight, torch.float32) if _is_asked(weight) else None
        told = _read(weight, matrix, _signs) if answers is None else _values(answers)
        digest.update(_weight_part(weight.name, weight.shape, told))
        if weight.name.endswith(".weight") and len(weight.shape) == 2:
            sketch.append(_sketch(weight.shape, matrix, answers))
    for part in _patches(model):
        digest.update(part)
        patches.update(part)
    return ModelIdentity(
        exact=digest.hexdigest()[:32],
        patches=patches.hexdigest()[:32],
        form=_form(weights),
        bits=min((_bits(weight) for weight in weights), default=FLOAT_BITS),
        sketch=sketch_of(torch.cat(sketch)) if sketch else b"",
    )


def model_values(model: ModelPatcher) -> str:
    """Return a hexadecimal fingerprint of the transformer's weights to the last bit.

    It differs for each form of a file (bf16, fp8, ...). The MODEL must be loaded.
    """
    digest = hashlib.sha256()
    for weight in sorted(wired_weights(model), key=lambda weight: weight.name):
        if _is_asked(weight):
            told = _values(_answers(model, weight, compute_dtype(model)))
        else:
            told = _read(weight, weight.value, _values)
        digest.update(_weight_part(weight.name, weight.shape, told))
    return digest.hexdigest()[:32]


def module_values(module: nn.Module) -> str:
    """Return the same of a module, compiled or not."""
    digest = hashlib.sha256()
    for name, weight in sorted((plain_name(name), weight) for name, weight in module.state_dict().items()):
        digest.update(_weight_part(name, tuple(weight.shape), _values(_sample(weight))))
    return digest.hexdigest()[:32]


def _read(weight: Weight, matrix: Tensor, read: Callable[[Tensor], bytes]) -> bytes:
    """A sample of a weight; `read` says what counts of one in floating point."""
    sample = _sample(matrix)
    return _values(sample) if weight.is_packed else read(sample)


def _is_asked(weight: Weight) -> bool:
    """Return whether a layer has to be asked what its weight is."""
    return weight.is_packed and weight.name.endswith(".weight") and linear_sizes(weight.layer) is not None


def _sample(tensor: Tensor) -> Tensor:
    """Up to NUM_RUNS * RUN_LENGTH values of a tensor, as float32 on the CPU."""
    flat = tensor.detach().flatten()
    if flat.numel() <= NUM_RUNS * RUN_LENGTH:
        return flat.float().cpu()
    last = flat.numel() - RUN_LENGTH
    starts = (run * last // (NUM_RUNS - 1) for run in range(NUM_RUNS))
    return torch.cat([flat[start : start + RUN_LENGTH].float() for start in starts]).cpu()


def _places(sizes: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Rows and columns of a matrix at which its sketch is taken, spread over it by the golden ratio."""
    steps = torch.arange(1, PROBES + 1, dtype=torch.float64)
    rows, columns = ((steps * factor).frac() for factor in (0.6180339887498949, 0.7548776662466927))
    return (rows * sizes[0]).long(), (columns * sizes[1]).long()


def _answers(model: ModelPatcher, weight: Weight, dtype: torch.dtype) -> Tensor:
    """Return what a layer makes of one value at a time: columns of its weight [PROBES, out], float32 on the CPU.

    dtype: of what it is given, where it takes that; otherwise the MODEL's own.
    """
    sizes = linear_sizes(weight.layer)
    _, columns = _places(sizes)
    probes = torch.zeros(1, PROBES + 1, sizes[1], device=model.load_device)
    probes[0, torch.arange(1, PROBES + 1), columns] = PROBE
    with _without_patches(weight):
        try:
            answers = weight.layer(probes.to(dtype))
        except (RuntimeError, NotImplementedError, TypeError, ValueError):
            # A kernel that multiplies in one number format only.
            answers = weight.layer(probes.to(compute_dtype(model)))
    answers = torch.as_tensor(answers[0]).float().cpu()
    return (answers[1:] - answers[:1]) / PROBE


@contextmanager
def _without_patches(weight: Weight) -> Iterator[None]:
    """The layer as it is without LoRAs, which layers of other packs apply to what they have unpacked."""
    with ExitStack() as restored:
        for owner, name in (
            (weight.value, "patches"),
            (weight.layer, "weight_function"),
            (weight.layer, "bias_function"),
        ):
            held = getattr(owner, "__dict__", {}).get(name)
            if held:
                setattr(owner, name, [])
                restored.callback(setattr, owner, name, held)
        yield


def _sketch(sizes: tuple[int, int], matrix: Tensor | None, answers: Tensor | None) -> Tensor:
    """Some values of a linear layer, as parts of their root mean square."""
    rows, columns = _places(sizes)
    if answers is None:
        # One by one: fp8 tensors know no other way of indexing.
        at = zip(rows.tolist(), columns.tolist(), strict=True)
        values = torch.stack([matrix.detach()[row, column].float().cpu() for row, column in at])
    else:
        values = answers[torch.arange(PROBES), rows]
    scale = values.square().mean().sqrt()
    return values / scale if scale > 0 else values


def _form(weights: list[Weight]) -> str:
    """Digest of the kinds of quantised layers; empty where there are none."""
    kinds = set()
    for weight in weights:
        if _is_coarse(weight):
            layout = getattr(weight.value, "_layout_cls", getattr(weight.value, "_layout_type", ""))
            kinds.add(f"{type(weight.layer).__qualname__} {type(weight.value).__name__} {layout} {_bits(weight):g}")
    return hashlib.sha256("; ".join(sorted(kinds)).encode()).hexdigest()[:16] if kinds else ""


def _is_coarse(weight: Weight) -> bool:
    """Return whether a weight is in a quantised form, which keeps no sign of a value near 0."""
    return weight.is_packed or weight.is_quantised


def _bits(weight: Weight) -> float:
    """Bits that a value of a weight takes; of floating-point ones, as many as round as coarsely."""
    if not _is_coarse(weight):
        return FP8_BITS.get(weight.value.dtype, FLOAT_BITS)
    if weight.value is None:
        held = [*weight.layer._buffers.values(), *weight.layer._parameters.values()]
        stored = [tensor for tensor in held if tensor is not None]
    else:
        stored = [weight.value._qdata if weight.is_quantised else weight.value]
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in stored)
    return min(FLOAT_BITS, 8 * num_bytes / max(1, int(np.prod(weight.shape))))


def _weight_part(name: str, shape: tuple[int, ...], told: bytes) -> bytes:
    """Return what a weight adds to a fingerprint: its name, its shape, and what is read of a sample."""
    return f"{name}{shape}".encode() + told


def _signs(sample: Tensor) -> bytes:
    return np.packbits(torch.signbit(sample).numpy()).tobytes()


def _values(sample: Tensor) -> bytes:
    return sample.numpy().tobytes()


def _patches(model: ModelPatcher) -> Iterator[bytes]:
    """Yield what decides the effect of the LoRAs on a MODEL."""
    for name in sorted(model.patches):
        yield name.encode()
        yield from _patch_parts(model.patches[name])


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
class Environment:
    """The settings and software that a MODEL computes with."""

    parts: dict[str, str]
    """By name; equal on every start of the same program on the same device."""
    untold: tuple[str, ...]
    """What the MODEL is changed by that does not say what it does, so that no other run can be taken for this one."""


def environment_of(model: ModelPatcher, upstream: str | None) -> Environment:
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
    return Environment(parts=parts, untold=tuple(untold))


def _matrix_products() -> tuple[object, ...]:
    """Return how exact PyTorch was told to be, which some nodes change for the whole program."""
    products = torch.backends.cuda.matmul
    return (
        torch.get_float32_matmul_precision(),
        getattr(products, "allow_fp16_accumulation", None),
        products.allow_fp16_reduced_precision_reduction,
        products.allow_bf16_reduced_precision_reduction,
    )


def _changes(model: ModelPatcher) -> Iterator[tuple[str, Any]]:
    """Yield what other nodes have put into a MODEL that its weights do not show: a name and the thing itself."""
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
