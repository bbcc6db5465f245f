"""Every published layout opens as the very same Wan 2.1 weights, without being read into memory."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from sfpp_core.checkpoint import open_checkpoint
from sfpp_core.checkpoint.checkpoint import understand
from sfpp_core.checkpoint.files import Archive
from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.wan.transformer import WanTransformer
from tests.helpers.checkpoint_layouts import (
    TINY,
    WAN_1_3B,
    WAN_14B,
    WRITTEN,
    StateDict,
    diffusers_names,
    meta_weights,
    prefixed,
    random_weights,
    write,
    write_layout,
    write_shards,
)


@pytest.fixture(scope="module")
def weights() -> StateDict:
    return random_weights(TINY)


@pytest.fixture(scope="module")
def slice_1_3b() -> StateDict:
    return random_weights(replace(WAN_1_3B, num_layers=2), dtype=torch.bfloat16)


def assert_same(opened: StateDict, expected: StateDict) -> None:
    assert list(opened) == list(expected)
    assert all(torch.equal(opened[name], expected[name]) for name in expected)


@pytest.mark.parametrize("layout", WRITTEN)
def test_every_layout_opens_as_the_same_weights(layout: str, weights: StateDict, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_layout(tmp_path, layout, weights))
    assert_same(checkpoint.state_dict, weights)
    assert checkpoint.config == TINY
    assert (checkpoint.layout, checkpoint.part) == (WRITTEN[layout].layout, WRITTEN[layout].part)
    assert checkpoint.quantization == ()
    WanTransformer(checkpoint.config).load_state_dict(checkpoint.state_dict, strict=True)


@pytest.mark.parametrize("layout", WRITTEN)
def test_a_slice_of_the_1_3b_model_opens_in_every_layout(layout: str, slice_1_3b: StateDict, tmp_path: Path) -> None:
    path = write_layout(tmp_path, layout, slice_1_3b)
    checkpoint = open_checkpoint(path)
    assert_same(checkpoint.state_dict, slice_1_3b)
    assert checkpoint.config == replace(WAN_1_3B, num_layers=2)
    path.unlink()


@pytest.mark.parametrize("config", [WAN_1_3B, WAN_14B], ids=["1.3B", "14B"])
@pytest.mark.parametrize("layout", WRITTEN)
def test_the_full_key_set_is_recognised_in_every_layout(layout: str, config) -> None:
    full = meta_weights(config)
    content = WRITTEN[layout].content(full)
    archive = Archive(path=Path("full"), content=content, metadata={}, num_heads=None)
    checkpoint = understand(archive)
    assert checkpoint.config == config
    assert {name: weight.shape for name, weight in checkpoint.state_dict.items()} == {
        name: weight.shape for name, weight in full.items()
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_the_stored_precision_is_kept(dtype: torch.dtype, weights: StateDict, tmp_path: Path) -> None:
    stored = {name: weight.to(dtype) for name, weight in weights.items()}
    checkpoint = open_checkpoint(write(tmp_path / "low.safetensors", prefixed(stored, "model.diffusion_model.")))
    assert {weight.dtype for weight in checkpoint.state_dict.values()} == {dtype}
    assert_same(
        {name: weight.float() for name, weight in checkpoint.state_dict.items()},
        {name: weight.float() for name, weight in stored.items()},
    )


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_averaged_weights_are_preferred_unless_switched_off(suffix: str, weights: StateDict, tmp_path: Path) -> None:
    averaged = random_weights(TINY, seed=1)
    content: dict = {"generator": prefixed(weights, "model."), "generator_ema": prefixed(averaged, "model.")}
    if suffix == ".safetensors":
        content = {f"{part}.{name}": weight for part, named in content.items() for name, weight in named.items()}
    path = write(tmp_path / f"both{suffix}", content)
    assert_same(open_checkpoint(path).state_dict, averaged)
    assert open_checkpoint(path).part == "generator_ema"
    assert_same(open_checkpoint(path, prefer_ema=False).state_dict, weights)
    assert open_checkpoint(path, prefer_ema=False).part == "generator"


def test_the_only_weights_there_are_taken_whatever_the_switch_says(weights: StateDict, tmp_path: Path) -> None:
    path = write_layout(tmp_path, "self-forcing", weights)
    assert open_checkpoint(path, prefer_ema=False).part == "generator_ema"


@pytest.mark.parametrize("empty", [{"generator_ema": {}}, {"generator_ema": None}, {"model": {"dim": 256}}])
def test_parts_without_weights_are_passed_over(empty: dict, weights: StateDict, tmp_path: Path) -> None:
    """Runs save an average that has not begun, and their settings, under the names of parts."""
    path = write(tmp_path / "run.pt", empty | {"state_dict": prefixed(weights, "model.")})
    assert_same(open_checkpoint(path).state_dict, weights)


def test_the_folder_one_stands_in_opens(weights: StateDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "diffusion_pytorch_model.safetensors", diffusers_names(weights))
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint(".").layout == "diffusers"


def test_content_decides_and_not_the_extension(weights: StateDict, tmp_path: Path) -> None:
    path = write_layout(tmp_path, "self-forcing", weights)
    assert_same(open_checkpoint(path.rename(tmp_path / "renamed.safetensors")).state_dict, weights)


@pytest.mark.parametrize("target", ["folder", "pipeline folder", "index", "second shard"])
def test_shards_open_together_from_wherever_one_points(target: str, weights: StateDict, tmp_path: Path) -> None:
    folder = tmp_path / "transformer"
    folder.mkdir()
    index = write_shards(folder, diffusers_names(weights), count=3)
    shard = folder / "diffusion_pytorch_model-00002-of-00003.safetensors"
    path = {"folder": folder, "pipeline folder": tmp_path, "index": index, "second shard": shard}[target]
    checkpoint = open_checkpoint(path)
    assert_same(checkpoint.state_dict, weights)
    assert checkpoint.layout == "diffusers"


def test_a_folder_with_one_file_opens_and_its_config_tells_the_heads(weights: StateDict, tmp_path: Path) -> None:
    write(tmp_path / "diffusion_pytorch_model.safetensors", diffusers_names(weights))
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 8, "attention_head_dim": 32}))
    assert open_checkpoint(tmp_path).config == replace(TINY, num_heads=8)


def test_a_config_beside_a_file_of_another_name_is_not_believed(weights: StateDict, tmp_path: Path) -> None:
    path = write(tmp_path / "student.safetensors", weights)
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 8}))
    assert open_checkpoint(path).config == TINY


def own_header(**changes: object) -> dict[str, str]:
    rollout = asdict(RolloutConfig(chunk=1, window=9, sink=2, steps=(1000.0, 500.0), shift=3.0))
    entries = {"kind": "student", "model": asdict(replace(TINY, num_heads=4)), "rollout": rollout, "seed": 7}
    return {"sfpp": json.dumps(entries | changes)}


def test_an_own_file_carries_its_configuration_and_preset(weights: StateDict, tmp_path: Path) -> None:
    path = write(tmp_path / "longlive_like.safetensors", weights, own_header())
    checkpoint = open_checkpoint(path)
    assert (checkpoint.layout, checkpoint.kind) == ("sfpp", "student")
    assert checkpoint.config == replace(TINY, num_heads=4)
    assert checkpoint.preset is not None
    assert checkpoint.preset.rollout == RolloutConfig(chunk=1, window=9, sink=2, steps=(1000.0, 500.0), shift=3.0)
    assert checkpoint.preset.name == "longlive_like"
    assert "longlive_like.safetensors" in checkpoint.preset.source


def test_an_own_teacher_has_no_preset(weights: StateDict, tmp_path: Path) -> None:
    path = write(tmp_path / "self_forcing.safetensors", weights, own_header(kind="teacher", rollout=None))
    checkpoint = open_checkpoint(path)
    assert (checkpoint.kind, checkpoint.preset) == ("teacher", None)


def test_a_published_file_gets_its_familys_preset(weights: StateDict, tmp_path: Path) -> None:
    path = write_layout(tmp_path, "longlive", weights).rename(tmp_path / "longlive_base.pt")
    checkpoint = open_checkpoint(path)
    assert checkpoint.kind is None
    assert checkpoint.preset is not None
    assert checkpoint.preset.name == "LongLive 1"


def scaled_fp8(weights: StateDict) -> tuple[StateDict, StateDict]:
    """Weights of the linear layers in fp8, and one scale a layer."""
    layers = [name.removesuffix(".weight") for name in weights if re.search(r"\.(q|k|v|o|ffn\.[02])\.weight$", name)]
    scales = {layer: weights[f"{layer}.weight"].abs().max() / 448 for layer in layers}
    stored = dict(weights)
    for layer, scale in scales.items():
        stored[f"{layer}.weight"] = (weights[f"{layer}.weight"] / scale).to(torch.float8_e4m3fn)
    return stored, scales


def test_scaled_fp8_with_a_marker_is_passed_on_whole(weights: StateDict, tmp_path: Path) -> None:
    stored, scales = scaled_fp8(weights)
    marker = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    content = stored | {f"{layer}.scale_weight": scale for layer, scale in scales.items()} | marker
    checkpoint = open_checkpoint(write(tmp_path / "fp8.safetensors", prefixed(content, "model.diffusion_model.")))
    assert checkpoint.quantization == ("scaled_fp8",)
    assert checkpoint.config == TINY
    assert checkpoint.state_dict.keys() == content.keys()
    layer = "blocks.1.ffn.0"
    restored = checkpoint.state_dict[f"{layer}.weight"].float() * checkpoint.state_dict[f"{layer}.scale_weight"]
    assert torch.allclose(restored, weights[f"{layer}.weight"], rtol=0.07, atol=1e-3)


@pytest.mark.parametrize("described_by", ["tensor", "header"])
def test_newer_fp8_descriptions_become_a_header_under_the_new_names(
    described_by: str, weights: StateDict, tmp_path: Path
) -> None:
    stored, scales = scaled_fp8(weights)
    scaled = stored | {f"{layer}.weight_scale": scale for layer, scale in scales.items()}
    conf = {"format": "float8_e4m3fn", "full_precision_matrix_mult": True}
    content, metadata = scaled, {}
    if described_by == "tensor":
        spelled = torch.tensor(list(json.dumps(conf).encode()), dtype=torch.uint8)
        content = scaled | {f"{layer}.comfy_quant": spelled.clone() for layer in scales}
    else:
        layers = {f"model.diffusion_model.{layer}": conf for layer in scales}
        metadata = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
    path = write(tmp_path / "fp8.safetensors", prefixed(content, "model.diffusion_model."), metadata)
    checkpoint = open_checkpoint(path)
    assert checkpoint.quantization == ("float8_e4m3fn",)
    assert checkpoint.state_dict.keys() == scaled.keys()
    described = json.loads(checkpoint.metadata["_quantization_metadata"])
    assert described == {"format_version": "1.0", "layers": dict.fromkeys(scales, conf)}


QUANTISED: dict[str, tuple[torch.dtype, int, tuple[str, ...], dict[str, object]]] = {
    "float8_e4m3fn": (torch.float8_e4m3fn, 1, ("weight_scale", "input_scale"), {"full_precision_matrix_mult": True}),
    "float8_e5m2": (torch.float8_e5m2, 1, ("weight_scale",), {}),
    "mxfp8": (torch.float8_e4m3fn, 1, ("weight_scale",), {}),
    "nvfp4": (torch.uint8, 2, ("weight_scale", "weight_scale_2", "pre_quant_scale"), {}),
    "int8_tensorwise": (torch.int8, 1, ("weight_scale",), {"convrot": True, "convrot_groupsize": 64}),
    "convrot_w4a4": (torch.int8, 2, ("weight_scale",), {"params": {"linear_dtype": "int8"}}),
    "asym_w4a8_int8": (torch.int8, 2, ("weight_s_rel", "weight_s_channel", "weight_codebook"), {"group_size": 16}),
}
"""How ComfyUI 0.33 writes layers of a format: number format, values an element, tensors beside a weight, settings."""


@pytest.mark.parametrize("quant_format", QUANTISED)
def test_quantised_layers_among_plain_ones_are_passed_on_whole(
    quant_format: str, weights: StateDict, tmp_path: Path
) -> None:
    dtype, values, parts, settings = QUANTISED[quant_format]
    conf = {"format": quant_format} | settings
    content = dict(weights)
    layers = [name.removesuffix(".weight") for name in weights if re.search(r"\.(q|v|ffn\.[02])\.weight$", name)]
    for layer in layers:
        rows, columns = weights[f"{layer}.weight"].shape
        content[f"{layer}.weight"] = torch.ones(rows, columns // values).to(dtype)
        content |= {f"{layer}.{part}": torch.ones(()) for part in parts}
        content[f"{layer}.comfy_quant"] = torch.tensor(list(json.dumps(conf).encode()), dtype=torch.uint8)
    checkpoint = open_checkpoint(write(tmp_path / "q.safetensors", prefixed(content, "model.diffusion_model.")))
    assert checkpoint.quantization == (quant_format,)
    assert checkpoint.config == TINY
    passed = {name for name in content if not name.endswith(".comfy_quant")}
    assert checkpoint.state_dict.keys() == passed
    assert all(torch.equal(checkpoint.state_dict[name].float(), content[name].float()) for name in passed)
    assert json.loads(checkpoint.metadata["_quantization_metadata"])["layers"] == dict.fromkeys(layers, conf)


def test_settings_of_attention_modules_are_passed_on(weights: StateDict, tmp_path: Path) -> None:
    spelled = torch.tensor(list(b'{"attention": "comfy_kitchen_int8"}'), dtype=torch.uint8)
    settings = {f"blocks.{index}.self_attn.comfy_attention.config": spelled.clone() for index in range(3)}
    checkpoint = open_checkpoint(write(tmp_path / "wan.safetensors", weights | settings))
    assert checkpoint.quantization == ()
    assert checkpoint.state_dict.keys() == weights.keys() | settings.keys()


def resident_private_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status).group(1)) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's memory accounting")
@pytest.mark.parametrize("layout", ["comfyui", "rolling-forcing", "diffusers"])
def test_opening_copies_nothing_into_memory(layout: str, slice_1_3b: StateDict, tmp_path: Path) -> None:
    path = write_layout(tmp_path, layout, slice_1_3b)
    megabytes = path.stat().st_size / 2**20
    assert megabytes > 200
    before = resident_private_mib()
    checkpoint = open_checkpoint(path)
    opened = resident_private_mib() - before
    checksum = sum(float(weight.flatten()[-1]) for weight in checkpoint.state_dict.values())
    path.unlink()
    assert checksum != 0
    assert opened < 0.1 * megabytes


def test_writing_to_an_opened_weight_leaves_the_file_alone(weights: StateDict, tmp_path: Path) -> None:
    path = write_layout(tmp_path, "wan", weights)
    open_checkpoint(path).state_dict["head.head.bias"].zero_()
    assert_same(open_checkpoint(path).state_dict, weights)
