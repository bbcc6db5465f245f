"""Files of the built-in student with every linear layer quantised, as the ComfyUI at hand writes them.

ComfyUI has no node that quantises, so the layers are made by its own functions in a process of its own: the tensors by
`QuantizedTensor.from_float`, the names and descriptions by the layers' own `state_dict`, which is what ModelSave
writes. A format that it does not know is written as a description with zeros, enough to be refused by.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfpp_core.tiny.family import weights_path
from tests.nodes.inside import inside_comfyui


@dataclass(frozen=True, kw_only=True)
class Form:
    """A way to quantise."""

    format: str
    """ComfyUI's name."""
    options: dict[str, Any] = field(default_factory=dict)
    """What ComfyUI's function is told."""
    error: float
    """How far a video of one chunk may be from the unquantised one's, as a part of it: a little more than was measured
    with the built-in student on ComfyUI 0.33.0."""


TENSOR = {"scale": "recalculate"}
CHANNEL = {"per_channel": True}
FORMS = {
    "float8_e4m3fn": Form(format="float8_e4m3fn", options=TENSOR, error=0.1),
    "float8_e5m2": Form(format="float8_e5m2", options=TENSOR, error=0.17),
    "mxfp8": Form(format="mxfp8", error=0.11),
    "nvfp4": Form(format="nvfp4", error=0.3),
    "int8": Form(format="int8_tensorwise", error=0.1),
    "int8_channels": Form(format="int8_tensorwise", options=CHANNEL, error=0.06),
    "int8_convrot": Form(format="int8_tensorwise", options=CHANNEL | {"convrot": True}, error=0.04),
    "convrot_w4a4": Form(format="convrot_w4a4", error=0.5),
    "asym_w4a8_int8": Form(format="asym_w4a8_int8", error=0.25),
}
"""The student's rows are 256 values or multiples of it long, which all group sizes divide."""

WRITE = """
import comfy.ops, comfy.quant_ops
from safetensors import safe_open
from safetensors.torch import load_file, save_file

tasks, target = json.loads({tasks!r}), {target!r}
can_write = hasattr(comfy.ops, "_quantized_weight_state_dict")
ops = comfy.ops.mixed_precision_ops({{}}, torch.float32)
for name, source, form, options, is_mixed in tasks:
    content, known = {{}}, form in comfy.quant_ops.QUANT_ALGOS
    described = torch.tensor(list(json.dumps({{"format": form}}).encode()), dtype=torch.uint8)
    for key, weight in load_file(source).items():
        is_quantised = key.endswith(".weight") and weight.ndim == 2 and not (is_mixed and "blocks.0" in key)
        layer_name = key.removesuffix("weight")
        if not is_quantised:
            content[key] = weight
        elif known and can_write:
            layer = ops.Linear(weight.shape[1], weight.shape[0], bias=False)
            layer.quant_format, layer.layout_type = form, comfy.quant_ops.QUANT_ALGOS[form]["comfy_tensor_layout"]
            quantised = comfy.quant_ops.QuantizedTensor.from_float(weight.float(), layer.layout_type, **options)
            layer.weight = torch.nn.Parameter(quantised, requires_grad=False)
            content |= layer.state_dict(prefix=layer_name)
        elif known:
            scale = weight.float().abs().max() / 448
            content[key] = (weight / scale).to(torch.float8_e4m3fn)
            content[layer_name + "weight_scale"] = scale
            content[layer_name + "comfy_quant"] = described.clone()
        else:
            packed = 2 if form in ("nvfp4", "convrot_w4a4", "asym_w4a8_int8") else 1
            content[key] = torch.zeros(weight.shape[0], weight.shape[1] // packed, dtype=torch.uint8)
            for part in ("weight_scale", "weight_scale_2", "weight_s_rel", "weight_s_channel"):
                content[layer_name + part] = torch.ones(())
            content[layer_name + "comfy_quant"] = described.clone()
    header = safe_open(source, "pt").metadata() if is_mixed else None
    save_file({{key: tensor.contiguous() for key, tensor in content.items()}}, os.path.join(target, name), header)
print(json.dumps(sorted(comfy.quant_ops.QUANT_ALGOS)))
"""


@dataclass(frozen=True)
class File:
    """A file to write."""

    name: str
    form: Form
    source: Path = field(default_factory=lambda: weights_path("student"))
    """Plain weights."""
    is_mixed: bool = False
    """Whether the first block stays as it is, and the file keeps its header, which holds a preset."""


def write_quantised(target: Path, files: list[File]) -> list[str]:
    """Write into a folder; the formats that the ComfyUI at hand knows."""
    tasks = [(file.name, str(file.source), file.form.format, file.form.options, file.is_mixed) for file in files]
    return inside_comfyui(WRITE.format(tasks=json.dumps(tasks), target=str(target)))
