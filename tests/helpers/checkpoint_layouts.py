"""Writers of every published checkpoint layout: the way back from Wan 2.1's names, written apart from the loader."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from sfpp_core.wan.config import WanConfig
from sfpp_core.wan.transformer import WanTransformer

TINY = WanConfig(dim=256, ffn_dim=320, num_heads=2, num_layers=3, text_dim=64)
WAN_1_3B = WanConfig(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30, text_dim=4096)
WAN_14B = WanConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40, text_dim=4096)

StateDict = dict[str, Tensor]
TO_DIFFUSERS = {
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.modulation": "scale_shift_table",
    "head.head": "proj_out",
    ".self_attn.": ".attn1.",
    ".cross_attn.": ".attn2.",
    ".q.": ".to_q.",
    ".k.": ".to_k.",
    ".v.": ".to_v.",
    ".o.": ".to_out.0.",
    ".norm3.": ".norm2.",
    ".ffn.0.": ".ffn.net.0.proj.",
    ".ffn.2.": ".ffn.net.2.",
    ".modulation": ".scale_shift_table",
}


@cache
def meta_weights(config: WanConfig) -> StateDict:
    """Names and shapes of every weight of a transformer, without storage."""
    with torch.device("meta"):
        return dict(WanTransformer(config).state_dict())


def random_weights(config: WanConfig, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> StateDict:
    """The same weights filled at random, so that no two tensors are equal."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(weight.shape, generator=generator).mul_(0.05).to(dtype)
        for name, weight in meta_weights(config).items()
    }


def prefixed(weights: Mapping[str, Tensor], prefix: str) -> StateDict:
    return {prefix + name: weight for name, weight in weights.items()}


def diffusers_names(weights: Mapping[str, Tensor]) -> StateDict:
    renamed = {}
    for name, weight in weights.items():
        for ours, theirs in TO_DIFFUSERS.items():
            name = name.replace(ours, theirs)
        renamed[name] = weight
    return renamed


def fsdp_names(weights: Mapping[str, Tensor]) -> StateDict:
    """As an FSDP-wrapped, activation-checkpointed wrapper module with a `model` inside names them."""
    marked = {}
    for name, weight in weights.items():
        head, _, rest = name.partition(".")
        if head == "blocks":
            index, _, rest = rest.partition(".")
            name = f"blocks.{index}._fsdp_wrapped_module._checkpoint_wrapped_module.{rest}"
        marked[f"model._fsdp_wrapped_module.{name}"] = weight
    return marked


@dataclass(frozen=True, slots=True)
class Written:
    """How a layout is stored, and what the loader must say of it."""

    content: Callable[[StateDict], dict]
    suffix: str
    layout: str
    part: str | None = None


def _all_in_one(weights: StateDict) -> StateDict:
    vae, text = torch.zeros(2), torch.ones(2)
    others = {"first_stage_model.encoder.conv1.weight": vae, "text_encoders.umt5xxl.shared.weight": text}
    return prefixed(weights, "model.diffusion_model.") | others


def _longlive(weights: StateDict) -> dict:
    optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-5, "params": [0]}]}
    return {"generator": prefixed(weights, "model."), "generator_optimizer": optimizer, "critic": {}, "step": 700}


WRITTEN: dict[str, Written] = {
    "wan": Written(lambda w: w, ".safetensors", "wan"),
    "wan-torch": Written(lambda w: w, ".pth", "wan"),
    "comfyui": Written(lambda w: prefixed(w, "diffusion_model."), ".safetensors", "comfyui"),
    "comfyui-all-in-one": Written(_all_in_one, ".safetensors", "comfyui"),
    "self-forcing": Written(lambda w: {"generator_ema": prefixed(w, "model.")}, ".pt", "training", "generator_ema"),
    "self-forcing-ode": Written(lambda w: {"generator": prefixed(w, "model.")}, ".pt", "training", "generator"),
    "rolling-forcing": Written(lambda w: {"generator_ema": fsdp_names(w)}, ".pt", "training", "generator_ema"),
    "longlive": Written(_longlive, ".pt", "training", "generator"),
    "causal-forcing": Written(
        lambda w: {"generator_ema": prefixed(w, "model._fsdp_wrapped_module.")}, ".pt", "training", "generator_ema"
    ),
    "compiled": Written(lambda w: {"model": prefixed(w, "_orig_mod.model.")}, ".pt", "training", "model"),
    "lightning": Written(lambda w: {"state_dict": prefixed(w, "model."), "epoch": 3}, ".pt", "training", "state_dict"),
    "nested-twice": Written(
        lambda w: {"state_dict": {"generator": prefixed(w, "module.model.")}}, ".pt", "training", "generator"
    ),
    "flattened": Written(
        lambda w: prefixed(w, "generator_ema.model.") | prefixed(w, "critic.model."),
        ".safetensors",
        "training",
        "generator_ema",
    ),
    "krea": Written(lambda w: prefixed(w, "model."), ".safetensors", "training"),
    "diffusers": Written(diffusers_names, ".safetensors", "diffusers"),
}


def write(path: Path, content: dict, metadata: dict[str, str] | None = None) -> Path:
    """Store as the suffix says. safetensors refuses tensors that share memory, so repeated ones are copied."""
    if path.suffix != ".safetensors":
        torch.save(content, path)
        return path
    seen: set[int] = set()
    unique = {}
    for name, tensor in content.items():
        unique[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    save_file(unique, path, metadata=metadata)
    return path


def write_layout(folder: Path, layout: str, weights: StateDict) -> Path:
    written = WRITTEN[layout]
    return write(folder / f"weights{written.suffix}", written.content(weights))


def write_shards(folder: Path, weights: StateDict, *, count: int) -> Path:
    """As diffusers writes large models; returns the index."""
    names = sorted(weights)
    weight_map = {}
    for shard in range(count):
        file = f"diffusion_pytorch_model-{shard + 1:05d}-of-{count:05d}.safetensors"
        part = {name: weights[name] for name in names[shard::count]}
        write(folder / file, part)
        weight_map |= dict.fromkeys(part, file)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index
