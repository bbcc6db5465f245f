"""Quantised weights, as ComfyUI reads them: recognised and passed on, never dequantised here.

Two spellings exist. Older files, all of fp8, carry a `scaled_fp8` marker and `LAYER.scale_weight` (sometimes
`LAYER.scale_input`). Newer ones carry `LAYER.weight_scale` and what else their format calls for, and describe the
layer, either in one `_quantization_metadata` JSON in the header or in a tensor `LAYER.comfy_quant`. ComfyUI's loader
takes the marker and the header once the layers bear Wan's names. The tensors it ignores before version 0.8, so they
become a header here; scales that nothing describes every version would ignore, so they are refused. Which of the
formats the ComfyUI at hand can read is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..files import parse_json
from .errors import CheckpointError, first_few
from .layouts import NamedWeights

MARKER = "scaled_fp8"
OLD_SCALE, OLD_INPUT_SCALE, DESCRIPTION = ".scale_weight", ".scale_input", ".comfy_quant"
LAYER_SETTINGS = (".comfy_attention.config",)
"""Ends of names of what a module without weights is told, as JSON in bytes; passed on for the ComfyUI that reads it."""
HEADER_KEY = "_quantization_metadata"
FORMAT_VERSION = "1.0"


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantFormat:
    """The tensors of a linear layer in a format, besides its weight and bias."""

    scales: tuple[str, ...] = ("weight_scale",)
    """Ends of names of tensors without which the weight means nothing."""
    optional: tuple[str, ...] = ("input_scale",)
    """Ends of names of those that a layer may have."""
    values_per_element: int = 1
    """Values of a row that one stored element holds."""


QUANT_FORMATS: dict[str, QuantFormat] = {
    "float8_e4m3fn": QuantFormat(),
    "float8_e5m2": QuantFormat(),
    "mxfp8": QuantFormat(),
    "nvfp4": QuantFormat(
        scales=("weight_scale", "weight_scale_2"), optional=("input_scale", "pre_quant_scale"), values_per_element=2
    ),
    "int8_tensorwise": QuantFormat(),
    "convrot_w4a4": QuantFormat(values_per_element=2),
    "asym_w4a8_int8": QuantFormat(
        scales=("weight_s_rel", "weight_s_channel"), optional=("weight_codebook",), values_per_element=2
    ),
}
"""The formats that ComfyUI 0.33 reads, under its names."""
LAYER_PARTS = tuple(sorted({f".{part}" for kind in QUANT_FORMATS.values() for part in (*kind.scales, *kind.optional)}))
WEIGHT_SCALES = tuple(part for part in LAYER_PARTS if part != ".input_scale")
"""Those that the weight means nothing without; an input's scale only spares a search for it."""
SIDECAR_SUFFIXES = (OLD_SCALE, OLD_INPUT_SCALE, DESCRIPTION, *LAYER_PARTS, *LAYER_SETTINGS)
ALLOWED_DTYPES = {"float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"}
OTHER_WEIGHTS = "Use a loader that knows the format, or bf16, fp16 or scaled fp8 weights."


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedWeights:
    """A model's weights apart from what describes their quantisation."""

    weights: dict[str, Tensor]
    shapes: dict[str, torch.Size]
    """Of the weights as matrices, which packed ones are not stored in."""
    sidecars: dict[str, Tensor]
    """The marker, the scales of layers and the settings of modules."""
    metadata: dict[str, str]
    """The header, with a description of every quantised layer under its new name."""
    formats: tuple[str, ...]
    """Names of the formats of quantised layers, see `Checkpoint.quantization`."""

    def strays(self) -> list[str]:
        """Scales of layers that have no weight."""
        names = (name for name in self.sidecars if name != MARKER and not name.endswith(LAYER_SETTINGS))
        return [name for name in names if f"{name.rpartition('.')[0]}.weight" not in self.weights]


def separate_quantization(named: NamedWeights, metadata: Mapping[str, str]) -> QuantizedWeights:
    """Tell weights from scales. Raises CheckpointError for quantisation that no ComfyUI would apply."""
    sidecars = {
        name: tensor for name, tensor in named.tensors.items() if name == MARKER or name.endswith(SIDECAR_SUFFIXES)
    }
    weights = {name: tensor for name, tensor in named.tensors.items() if name not in sidecars}
    described = _header_layers(named, metadata) | _described_layers(named.path, sidecars)
    _refuse_other_formats(named.path, weights, described)
    _refuse_undescribed_scales(named.path, sidecars, described)
    _refuse_missing_scales(named.path, sidecars, described)
    sidecars = {name: tensor for name, tensor in sidecars.items() if not name.endswith(DESCRIPTION)}
    metadata = dict(metadata)
    if described:
        metadata[HEADER_KEY] = json.dumps({"format_version": FORMAT_VERSION, "layers": described})
    formats = {str(conf["format"]) for conf in described.values()} | ({MARKER} & sidecars.keys())
    return QuantizedWeights(
        weights=weights,
        shapes={name: _shape(name, weight, described) for name, weight in weights.items()},
        sidecars=sidecars,
        metadata=metadata,
        formats=tuple(sorted(formats)),
    )


def _shape(name: str, weight: Tensor, described: Mapping[str, dict]) -> torch.Size:
    """A weight's shape once it is unpacked."""
    layer, _, kind = name.rpartition(".")
    if kind != "weight" or layer not in described:
        return weight.shape
    *rows, columns = weight.shape
    return torch.Size((*rows, columns * QUANT_FORMATS[described[layer]["format"]].values_per_element))


def _header_layers(named: NamedWeights, metadata: Mapping[str, str]) -> dict[str, dict]:
    """Layers that the header describes, under their new names."""
    if HEADER_KEY not in metadata:
        return {}
    try:
        layers = parse_json(metadata[HEADER_KEY])["layers"]
        return {named.renamed[f"{layer}.weight"].removesuffix(".weight"): dict(conf) for layer, conf in layers.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            named.path,
            found=f"a header whose {HEADER_KEY} does not fit the weights ({error})",
            remedy="Use the publisher's original file.",
        ) from error


def _described_layers(path: Path, sidecars: Mapping[str, Tensor]) -> dict[str, dict]:
    """Layers described by a tensor that spells JSON in bytes."""
    described = {}
    for name, tensor in sidecars.items():
        if not name.endswith(DESCRIPTION):
            continue
        try:
            described[name.removesuffix(DESCRIPTION)] = dict(parse_json(bytes(tensor.flatten().tolist())))
        except (ValueError, TypeError) as error:
            raise CheckpointError(
                path,
                found=f"a quantised layer whose description, {name}, is no JSON",
                remedy=OTHER_WEIGHTS,
                other_loader=True,
            ) from error
    return described


def _refuse_other_formats(path: Path, weights: Mapping[str, Tensor], described: Mapping[str, dict]) -> None:
    formats = sorted({str(conf.get("format")) for conf in described.values()} - QUANT_FORMATS.keys())
    # A described layer may keep its numbers in bytes; any other weight must be a plain floating-point tensor.
    plain = {name: tensor for name, tensor in weights.items() if name.removesuffix(".weight") not in described}
    formats += sorted({str(tensor.dtype).removeprefix("torch.") for tensor in plain.values()} - ALLOWED_DTYPES)
    if formats:
        raise CheckpointError(
            path, found=f"weights quantised as {first_few(formats)}", remedy=OTHER_WEIGHTS, other_loader=True
        )


def _refuse_undescribed_scales(path: Path, sidecars: Mapping[str, Tensor], described: Mapping[str, dict]) -> None:
    undescribed = [
        name
        for name in sidecars
        if (name.endswith(OLD_SCALE) and MARKER not in sidecars)
        or (name.endswith(WEIGHT_SCALES) and name.rpartition(".")[0] not in described)
    ]
    if undescribed:
        raise CheckpointError(
            path,
            found=f"scales of quantised layers without a word on how to apply them ({first_few(undescribed)})",
            expected=f"a {MARKER} marker, {DESCRIPTION} tensors or {HEADER_KEY} in the header",
            remedy="ComfyUI would ignore the scales and show noise; use the publisher's original file.",
        )


def _refuse_missing_scales(path: Path, sidecars: Mapping[str, Tensor], described: Mapping[str, dict]) -> None:
    needed = (f"{layer}.{scale}" for layer, conf in described.items() for scale in QUANT_FORMATS[conf["format"]].scales)
    if missing := [name for name in needed if name not in sidecars]:
        raise CheckpointError(
            path,
            found=f"quantised layers without their scales ({first_few(missing)})",
            remedy="The file is incomplete: download it again, or use the publisher's original.",
        )
