"""fp8 weights with one scale a layer, as ComfyUI reads them: recognised and passed on, never dequantised here.

Two spellings exist. Older files carry a `scaled_fp8` marker and `LAYER.scale_weight` (sometimes `LAYER.scale_input`).
Newer ones carry `LAYER.weight_scale` (sometimes `LAYER.input_scale`) and describe the layer, either in one
`_quantization_metadata` JSON in the header or in a tensor `LAYER.comfy_quant`. ComfyUI's loader takes the marker and
the header once the layers bear Wan's names. The tensors it ignores before version 0.8, so they become a header here;
scales that nothing describes every version would ignore, so they are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from ..json_text import parse_json
from .errors import CheckpointError, first_few
from .layouts import NamedWeights

Quantization = Literal["scaled_fp8"]

MARKER = "scaled_fp8"
OLD_SCALE, NEW_SCALE, DESCRIPTION = ".scale_weight", ".weight_scale", ".comfy_quant"
SIDECAR_SUFFIXES = (OLD_SCALE, NEW_SCALE, DESCRIPTION, ".scale_input", ".input_scale", ".weight_scale_2")
HEADER_KEY = "_quantization_metadata"
FORMAT_VERSION = "1.0"
FP8_FORMATS = ("float8_e4m3fn", "float8_e5m2")
ALLOWED_DTYPES = {"float64", "float32", "float16", "bfloat16", *FP8_FORMATS}
OTHER_LOADERS = (
    "If ComfyUI knows the format, use its own Load Diffusion Model node: the sampler takes that node's MODEL too. "
    "Otherwise use bf16, fp16 or scaled fp8 weights."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedWeights:
    """A model's weights apart from what describes their quantisation."""

    weights: dict[str, Tensor]
    sidecars: dict[str, Tensor]
    """The marker and the scales of layers; empty if the weights are stored as they are."""
    metadata: dict[str, str]
    """The header, with a description of every quantised layer under its new name."""

    @property
    def quantization(self) -> Quantization | None:
        return "scaled_fp8" if self.sidecars else None

    def strays(self) -> list[str]:
        """Scales of layers that have no weight."""
        names = (name for name in self.sidecars if name != MARKER)
        return [name for name in names if f"{name.rpartition('.')[0]}.weight" not in self.weights]


def separate_quantization(named: NamedWeights, metadata: Mapping[str, str]) -> QuantizedWeights:
    """Tell weights from scales. Raises CheckpointError for quantisation that ComfyUI's fp8 path would not apply."""
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
    return QuantizedWeights(weights=weights, sidecars=sidecars, metadata=metadata)


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
                path, found=f"a quantised layer whose description, {name}, is no JSON", remedy=OTHER_LOADERS
            ) from error
    return described


def _refuse_other_formats(path: Path, weights: Mapping[str, Tensor], described: Mapping[str, dict]) -> None:
    formats = sorted({str(conf.get("format")) for conf in described.values()} - set(FP8_FORMATS))
    # A described layer may keep its fp8 numbers in bytes; any other weight must be a plain floating-point tensor.
    plain = {name: tensor for name, tensor in weights.items() if name.removesuffix(".weight") not in described}
    formats += sorted({str(tensor.dtype).removeprefix("torch.") for tensor in plain.values()} - ALLOWED_DTYPES)
    if formats:
        raise CheckpointError(path, found=f"weights quantised as {first_few(formats)}", remedy=OTHER_LOADERS)


def _refuse_undescribed_scales(path: Path, sidecars: Mapping[str, Tensor], described: Mapping[str, dict]) -> None:
    undescribed = [
        name
        for name in sidecars
        if (name.endswith(OLD_SCALE) and MARKER not in sidecars)
        or (name.endswith(NEW_SCALE) and name.removesuffix(NEW_SCALE) not in described)
    ]
    if undescribed:
        raise CheckpointError(
            path,
            found=f"scales of quantised layers without a word on how to apply them ({first_few(undescribed)})",
            expected=f"a {MARKER} marker, {DESCRIPTION} tensors or {HEADER_KEY} in the header",
            remedy="ComfyUI would ignore the scales and show noise; use the publisher's original file.",
        )


def _refuse_missing_scales(path: Path, sidecars: Mapping[str, Tensor], described: Mapping[str, dict]) -> None:
    if missing := [f"{layer}{NEW_SCALE}" for layer in described if f"{layer}{NEW_SCALE}" not in sidecars]:
        raise CheckpointError(
            path,
            found=f"quantised layers without their scales ({first_few(missing)})",
            remedy="The file is incomplete: download it again, or use the publisher's original.",
        )
