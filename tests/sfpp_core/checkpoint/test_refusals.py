"""What is no Wan 2.1 text-to-video transformer is refused: the file, what it is, what to do; and nothing in it runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sfpp_core.checkpoint import CheckpointError, open_checkpoint
from sfpp_core.rollout.config import RolloutConfig
from tests.helpers.checkpoint_layouts import (
    TINY,
    StateDict,
    diffusers_names,
    prefixed,
    random_weights,
    write,
    write_layout,
    write_shards,
)
from tests.sfpp_core.checkpoint.test_checkpoint import own_header, scaled_fp8


@pytest.fixture(scope="module")
def weights() -> StateDict:
    return random_weights(TINY)


def refusal(path: Path) -> str:
    """The sentence, which always names the file, what is wanted and what to do."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    error = caught.value
    assert isinstance(error, ValueError)
    message = str(error)
    assert str(error.path) in message
    assert path.name in message or path.name in str(error.path.parent)
    assert error.expected in message
    assert message.endswith(error.remedy)
    assert error.remedy.endswith(".")
    return message


def small(*names: str) -> StateDict:
    return {name: torch.full((2,), float(index)) for index, name in enumerate(names)}


# Files that are no containers of weights.


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "a Git LFS pointer"),
        (b"GGUF\x03\x00\x00\x00" + bytes(64), "a GGUF file"),
        (bytes(range(256)) * 8, "no checkpoint at all"),
        (b"abc", "no checkpoint at all"),
        (b"PK\x03\x04" + bytes(400), "a damaged or truncated torch file"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_no_checkpoint(content: bytes, found: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    assert f"found {found}" in refusal(path) or f"found a file that is {found}" in refusal(path)


def test_a_missing_path(tmp_path: Path) -> None:
    assert "found no such file" in refusal(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("kept", [0.5, 0.999, None])
def test_a_truncated_safetensors_file(kept: float | None, weights: StateDict, tmp_path: Path) -> None:
    path = write_layout(tmp_path, "wan", weights)
    content = path.read_bytes()
    path.write_bytes(content[: 200 if kept is None else int(len(content) * kept)])
    message = refusal(path)
    assert "found a truncated safetensors file" in message
    assert f"{path.stat().st_size:,} of " in message


def test_a_damaged_safetensors_header(weights: StateDict, tmp_path: Path) -> None:
    path = write_layout(tmp_path, "wan", weights)
    content = bytearray(path.read_bytes())
    content[20:40] = b"\xff" * 20
    path.write_bytes(content)
    assert "found a damaged safetensors file" in refusal(path)


def test_a_truncated_torch_file(weights: StateDict, tmp_path: Path) -> None:
    path = write_layout(tmp_path, "self-forcing", weights)
    path.write_bytes(path.read_bytes()[:-5000])
    assert "damaged or truncated torch file" in refusal(path)


# Pickles.


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.write_text, (self.target, "code ran")


@pytest.mark.parametrize("old_container", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_a_pickle_that_would_run_code_is_refused_and_nothing_runs(
    nested: bool, old_container: bool, weights: StateDict, tmp_path: Path
) -> None:
    target = tmp_path / "ran"
    path = tmp_path / "self_forcing_dmd.pt"
    content = {"generator_ema": {**weights, "trap": Trap(target)}} if nested else {"trap": Trap(target), **weights}
    torch.save(content, path, _use_new_zipfile_serialization=not old_container)
    message = refusal(path)
    assert not target.exists()
    assert "run code" in message
    assert "weights_only" not in message
    torch.load(path, weights_only=False)
    assert target.exists(), "the trap itself does not work, so the test shows nothing"


def test_a_pickle_of_other_objects_names_what_was_refused(weights: StateDict, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    torch.save({"generator": weights, "where": Path("x")}, path)
    assert "a pickle with more than weights in it (pathlib" in refusal(path)


def test_a_torch_file_that_is_no_dictionary(tmp_path: Path) -> None:
    path = tmp_path / "list.pt"
    torch.save([torch.zeros(2)], path)
    assert "a torch file that holds a list" in refusal(path)


@pytest.mark.parametrize("outer", ["model", "generator_ema"])
def test_a_dictionary_that_contains_itself(outer: str, tmp_path: Path) -> None:
    content: dict = {outer: {}}
    content[outer]["model"] = content
    path = tmp_path / "ring.pt"
    torch.save(content, path)
    assert f"a training file with the parts {outer}" in refusal(path)


@pytest.mark.parametrize(
    "hollow",
    [
        torch.zeros(1).expand(10**15, 16, 1, 2, 2),
        torch.zeros(256, 16, 1, 2, 2, device="meta"),
        torch.zeros(256, 16, 1, 2, 2).to_sparse(),
        torch.nested.nested_tensor([torch.zeros(3)]),
    ],
    ids=["claimed", "meta", "sparse", "nested"],
)
def test_tensors_without_their_numbers(hollow: torch.Tensor, weights: StateDict, tmp_path: Path) -> None:
    path = tmp_path / "hollow.pt"
    torch.save(weights | {"patch_embedding.weight": hollow}, path)
    assert "numbers are not in the file, or not one by one (patch_embedding.weight)" in refusal(path)


# JSON that exhausts Python's stack.

DEEP = "[" * 200_000


def test_deep_json_in_headers(weights: StateDict, tmp_path: Path) -> None:
    path = tmp_path / "deep.safetensors"
    content = f'{{"a":{DEEP}'.encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content)
    assert "a damaged safetensors file" in refusal(path)
    assert "nested too deeply" in refusal(write(path, weights, {"sfpp": DEEP}))
    assert "nested too deeply" in refusal(write(path, weights, {"_quantization_metadata": DEEP}))


def test_deep_json_beside_weights(weights: StateDict, tmp_path: Path) -> None:
    index = write_shards(tmp_path, diffusers_names(weights), count=2)
    (tmp_path / "config.json").write_text(DEEP)
    assert "nested too deeply" in refusal(index)
    index.write_text(DEEP)
    assert "nested too deeply" in refusal(index)


# Folders and shards.


def test_an_empty_folder(tmp_path: Path) -> None:
    assert "a folder without .safetensors files" in refusal(tmp_path)


def test_a_folder_of_several_files_names_them(weights: StateDict, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / f"{name}.safetensors", weights)
    assert "one.safetensors, two.safetensors" in refusal(tmp_path)


def test_a_folder_of_torch_distributed_says_how_to_gather_it(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(b"")
    assert "dcp_to_torch" in refusal(tmp_path)


def test_a_missing_shard_is_named(weights: StateDict, tmp_path: Path) -> None:
    index = write_shards(tmp_path, diffusers_names(weights), count=3)
    (tmp_path / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    assert "1 are missing (diffusion_pytorch_model-00002-of-00003.safetensors)" in refusal(index)


def test_a_shard_without_its_index(weights: StateDict, tmp_path: Path) -> None:
    write_shards(tmp_path, diffusers_names(weights), count=2).unlink()
    message = refusal(tmp_path / "diffusion_pytorch_model-00001-of-00002.safetensors")
    assert "without its index" in message


@pytest.mark.parametrize("weight_map", ['{"a": "../secret.safetensors"}', '{"a": 3}', "[]", "{", '{"a": "/etc/x"}'])
def test_an_index_that_leads_elsewhere_or_is_broken(weight_map: str, tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": ' + weight_map + "}")
    save_file({"a": torch.zeros(2)}, tmp_path.parent / "secret.safetensors")
    assert "an index that cannot be read" in refusal(index)


def test_a_weight_that_two_shards_hold(weights: StateDict, tmp_path: Path) -> None:
    index = write_shards(tmp_path, weights, count=2)
    write(tmp_path / "diffusion_pytorch_model-00002-of-00002.safetensors", weights)
    assert "names that occur in two shards" in refusal(index)


# Other models.


@pytest.mark.parametrize("layout", ["wan", "diffusers"])
def test_an_image_to_video_model(layout: str, weights: StateDict, tmp_path: Path) -> None:
    wan = weights | {
        "patch_embedding.weight": torch.zeros(TINY.dim, 36, 1, 2, 2),
        "img_emb.proj.0.weight": torch.zeros(8),
        "blocks.0.cross_attn.k_img.weight": torch.zeros(8),
    }
    theirs = diffusers_names(wan) | {"blocks.0.attn2.add_k_proj.weight": torch.zeros(8)}
    path = write(tmp_path / "i2v.safetensors", wan if layout == "wan" else theirs)
    message = refusal(path)
    assert "image-to-video" in message
    assert "start input" in message


@pytest.mark.parametrize(
    ("channels", "found"),
    [
        ((36, 16), "a Wan image-to-video model (36 input channels)"),
        ((48, 48), "a Wan 2.2 5B model"),
        ((32, 16), "a Wan model with 32 channels in and 16 out"),
    ],
)
def test_other_channels(channels: tuple[int, int], found: str, tmp_path: Path) -> None:
    config = replace(TINY, in_channels=channels[0], out_channels=channels[1])
    path = write(tmp_path / "other.safetensors", random_weights(config))
    assert found in refusal(path)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("vace_blocks.0.before_proj.weight", "a Wan VACE model"),
        ("vace_patch_embedding.weight", "a Wan VACE model"),
        ("control_adapter.conv.weight", "a Wan camera-control model"),
        ("casual_audio_encoder.encoder.final_linear.weight", "a Wan speech-to-video model"),
        ("audio_proj.audio_proj_glob_1.layer.bias", "a Wan model driven by audio"),
        ("face_adapter.fuser_blocks.0.k_norm.weight", "a Wan Animate model"),
        ("ref_conv.weight", "a Wan Fun control model"),
        ("fps_embedding.weight", "a SkyReels model"),
    ],
)
def test_members_of_the_wan_family(name: str, found: str, weights: StateDict, tmp_path: Path) -> None:
    path = write(tmp_path / "family.safetensors", prefixed({**weights, name: torch.ones(3)}, "diffusion_model."))
    assert f"found {found}" in refusal(path)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (
            (
                "model.diffusion_model.input_blocks.0.0.weight",
                "conditioner.embedders.0.transformer.weight",
                "first_stage_model.decoder.conv_in.weight",
            ),
            "a Stable Diffusion model",
        ),
        (("down_blocks.0.resnets.0.conv1.weight", "conv_in.weight"), "a Stable Diffusion model"),
        (("double_blocks.0.img_attn.qkv.weight", "img_in.weight"), "a Flux or HunyuanVideo model"),
        (("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight",), "a Stable Diffusion 3 model"),
        (("transformer_blocks.0.attn1.to_q.weight",), "a diffusion transformer of another family"),
        (("encoder.conv1.weight", "decoder.conv1.weight", "conv1.weight"), "a VAE"),
        (("encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight"), "a text encoder"),
        (("token_embedding.weight", "blocks.0.attn.q.weight"), "a text encoder"),
        (("text_model.embeddings.position_embedding.weight",), "a text encoder"),
        (("vision_model.embeddings.class_embedding",), "an image encoder"),
        (("layer.0.weight", "layer.1.weight"), "weights of an unknown kind (layer.0.weight, layer.1.weight, ...)"),
    ],
)
def test_other_architectures(names: tuple[str, ...], found: str, tmp_path: Path) -> None:
    assert f"found {found}" in refusal(write(tmp_path / "other.safetensors", small(*names)))


@pytest.mark.parametrize(
    "names",
    [
        ("diffusion_model.blocks.0.self_attn.q.lora_A.weight", "diffusion_model.blocks.0.self_attn.q.lora_B.weight"),
        ("blocks.0.ffn.0.lora_down.weight", "blocks.0.ffn.0.lora_up.weight", "blocks.0.ffn.0.alpha"),
        ("lora_unet_blocks_0_self_attn_q.alpha", "lora_unet_blocks_0_self_attn_q.dora_scale"),
        ("diffusion_model.blocks.0.norm3.diff", "diffusion_model.blocks.0.self_attn.q.diff_b"),
    ],
)
def test_a_lora_is_sent_to_the_lora_loader(names: tuple[str, ...], tmp_path: Path) -> None:
    message = refusal(write(tmp_path / "style.safetensors", small(*names)))
    assert "found a LoRA" in message
    assert "LoraLoaderModelOnly" in message


@pytest.mark.parametrize("part", ["generator_lora", None])
def test_longlives_lora_is_refused_with_the_way_to_use_it(part: str | None, tmp_path: Path) -> None:
    lora = small(*(f"base_model.model.blocks.0.self_attn.q.lora_{side}.weight" for side in "AB"))
    content = {part: lora, "critic_lora": lora, "step": 3000} if part else lora
    message = refusal(write(tmp_path / "lora.pt", content))
    assert "LoRA" in message
    assert "docs/checkpoints.md" in message


@pytest.mark.parametrize("part", ["generator_lora", None])
def test_the_documented_way_to_rewrite_longlives_lora(part: str | None, tmp_path: Path) -> None:
    document = (Path(__file__).parents[3] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    program = next(block for block in re.findall(r"```python\n(.*?)```", document, re.DOTALL) if "lora.pt" in block)
    lora = small(*(f"base_model.model.blocks.0._fsdp_wrapped_module.ffn.0.lora_{side}.weight" for side in "AB"))
    write(tmp_path / "lora.pt", {part: lora, "step": 1} if part else lora)
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    rewritten = load_file(tmp_path / "longlive_lora.safetensors")
    # The names that LoraLoaderModelOnly knows for Wan.
    assert set(rewritten) == {f"diffusion_model.blocks.0.ffn.0.lora_{side}.weight" for side in "AB"}


@pytest.mark.parametrize("part", ["critic", "critic_ema", "fake_score"])
def test_a_critic_alone(part: str, weights: StateDict, tmp_path: Path) -> None:
    path = write(tmp_path / "critic.pt", {part: prefixed(weights, "model."), "step": 600})
    assert "the critic's side of a training run only" in refusal(path)


def test_unknown_parts_are_named(weights: StateDict, tmp_path: Path) -> None:
    path = write(tmp_path / "odd.pt", {"left": weights, "right": weights})
    assert "with the parts left, right" in refusal(path)


@pytest.mark.parametrize("content", [{}, {"step": 3}, {"generator": {}}])
def test_no_tensor_at_all(content: dict, tmp_path: Path) -> None:
    assert "without a single tensor" in refusal(write(tmp_path / "bare.pt", content))


# Wan 2.1, but not whole.


def test_missing_weights_are_listed(weights: StateDict, tmp_path: Path) -> None:
    gone = [name for name in weights if name.startswith("blocks.1.cross_attn.")]
    kept = {name: weight for name, weight in weights.items() if name not in gone}
    message = refusal(write(tmp_path / "holes.safetensors", prefixed(kept, "model.")))
    assert f"{len(gone)} missing (blocks.1.cross_attn.q.weight, " in message
    assert f"and {len(gone) - 5} more" in message
    assert "(dim 256, 3 blocks)" in message
    assert "incomplete" in message


@pytest.mark.parametrize("name", ["patch_embedding.weight", "text_embedding.0.weight", "blocks.0.ffn.0.weight"])
def test_a_weight_that_tells_the_size_is_missing(name: str, weights: StateDict, tmp_path: Path) -> None:
    kept = {key: weight for key, weight in weights.items() if key != name}
    assert f"a Wan transformer without {name}" in refusal(write(tmp_path / "holes.safetensors", kept))


def test_extra_weights_are_listed(weights: StateDict, tmp_path: Path) -> None:
    content = {**weights, "blocks.0.mystery.weight": torch.zeros(3)}
    message = refusal(write(tmp_path / "more.safetensors", content))
    assert "1 that do not belong (blocks.0.mystery.weight)" in message


def test_a_block_missing_in_the_middle(weights: StateDict, tmp_path: Path) -> None:
    kept = {name: weight for name, weight in weights.items() if not name.startswith("blocks.1.")}
    message = refusal(write(tmp_path / "gap.safetensors", kept))
    assert "missing (blocks.1.modulation" in message
    assert "that do not belong (blocks.2." in message


def test_wrong_shapes_are_listed(weights: StateDict, tmp_path: Path) -> None:
    content = {**weights, "blocks.2.self_attn.k.weight": torch.zeros(256, 255)}
    message = refusal(write(tmp_path / "bent.safetensors", content))
    assert "1 of another shape (blocks.2.self_attn.k.weight is [256, 255] instead of [256, 256])" in message


@pytest.mark.parametrize("name", ["patch_embedding.weight", "head.head.bias"])
def test_a_weight_of_another_rank(name: str, weights: StateDict, tmp_path: Path) -> None:
    refusal(write(tmp_path / "flat.safetensors", {**weights, name: torch.zeros(7)}))


def test_another_patch(weights: StateDict, tmp_path: Path) -> None:
    content = {**weights, "patch_embedding.weight": torch.zeros(256, 16, 1, 1, 1)}
    assert "the patch is (1, 1, 1)" in refusal(write(tmp_path / "patch.safetensors", content))


def test_two_names_for_one_weight(weights: StateDict, tmp_path: Path) -> None:
    content = {**weights, "blocks.0._orig_mod.norm3.weight": torch.zeros(256)}
    assert "two weights that both stand for blocks.0.norm3.weight" in refusal(write(tmp_path / "two.pt", content))


def test_diffusers_swapped_norms_are_not_mistaken(weights: StateDict, tmp_path: Path) -> None:
    content = diffusers_names(weights)
    content["blocks.0.norm3.weight"] = content.pop("blocks.0.norm2.weight")
    content["blocks.0.norm2.weight"] = torch.zeros(256)
    assert "both stand for blocks.0.norm3.weight" in refusal(write(tmp_path / "norms.safetensors", content))


# Quantised files that no ComfyUI would apply.


def test_integer_weights(weights: StateDict, tmp_path: Path) -> None:
    content = {**weights, "blocks.0.ffn.0.weight": torch.zeros(TINY.ffn_dim, TINY.dim, dtype=torch.int8)}
    path = write(tmp_path / "int8.safetensors", content)
    assert "weights quantised as int8" in refusal(path)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert caught.value.other_loader


def test_another_quantised_format(weights: StateDict, tmp_path: Path) -> None:
    spelled = torch.tensor(list(b'{"format": "ternary"}'), dtype=torch.uint8)
    content = {
        **weights,
        "blocks.0.ffn.0.weight": torch.zeros(TINY.ffn_dim, TINY.dim // 4, dtype=torch.uint8),
        "blocks.0.ffn.0.weight_scale": torch.ones(TINY.ffn_dim),
        "blocks.0.ffn.0.comfy_quant": spelled,
    }
    assert "weights quantised as ternary" in refusal(write(tmp_path / "ternary.safetensors", content))


@pytest.mark.parametrize("spelling", ["scale_weight", "weight_scale"])
def test_scales_that_nothing_describes(spelling: str, weights: StateDict, tmp_path: Path) -> None:
    stored, scales = scaled_fp8(weights)
    content = stored | {f"{layer}.{spelling}": scale for layer, scale in scales.items()}
    assert "without a word on how to apply them" in refusal(write(tmp_path / "fp8.safetensors", content))


def test_a_quantised_layer_without_its_scale(weights: StateDict, tmp_path: Path) -> None:
    spelled = torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
    content = {**weights, "blocks.0.ffn.0.comfy_quant": spelled}
    message = refusal(write(tmp_path / "fp8.safetensors", content))
    assert "quantised layers without their scales (blocks.0.ffn.0.weight_scale)" in message


def test_a_packed_layer_of_another_shape(weights: StateDict, tmp_path: Path) -> None:
    """Two values lie in a byte, so that the plain weight's number of columns is one of a layer twice as wide."""
    spelled = torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8)
    content = {
        **weights,
        "blocks.0.ffn.0.weight": torch.zeros(TINY.ffn_dim, TINY.dim, dtype=torch.uint8),
        "blocks.0.ffn.0.weight_scale": torch.ones(TINY.ffn_dim, TINY.dim // 16),
        "blocks.0.ffn.0.weight_scale_2": torch.ones(()),
        "blocks.0.ffn.0.comfy_quant": spelled,
    }
    message = refusal(write(tmp_path / "fp4.safetensors", content))
    assert (
        f"blocks.0.ffn.0.weight is [{TINY.ffn_dim}, {2 * TINY.dim}] instead of [{TINY.ffn_dim}, {TINY.dim}]" in message
    )


def test_a_quantised_layer_whose_description_is_no_json(weights: StateDict, tmp_path: Path) -> None:
    content = {**weights, "blocks.0.ffn.0.comfy_quant": torch.zeros(4, dtype=torch.uint8)}
    assert "blocks.0.ffn.0.comfy_quant, is no JSON" in refusal(write(tmp_path / "fp8.safetensors", content))


def test_a_description_that_is_a_number_of_bytes(weights: StateDict, tmp_path: Path) -> None:
    """bytes(n) would allocate n zeros."""
    described = weights | {"blocks.0.ffn.0.comfy_quant": torch.tensor(10**13)}
    assert "comfy_quant, is no JSON" in refusal(write(tmp_path / "fp8.safetensors", described))


def test_a_scale_of_no_layer(weights: StateDict, tmp_path: Path) -> None:
    content = {**weights, "scaled_fp8": torch.zeros(2), "blocks.9.ffn.0.scale_weight": torch.ones(())}
    message = refusal(write(tmp_path / "fp8.safetensors", content))
    assert "1 that do not belong (blocks.9.ffn.0.scale_weight)" in message


@pytest.mark.parametrize("value", ["{", '{"layers": {"blocks.77.ffn.0": {"format": "float8_e4m3fn"}}}', "[]"])
def test_a_quantisation_header_that_does_not_fit(value: str, weights: StateDict, tmp_path: Path) -> None:
    path = write(tmp_path / "fp8.safetensors", weights, {"_quantization_metadata": value})
    assert "_quantization_metadata does not fit the weights" in refusal(path)


# Own files.


@pytest.mark.parametrize("kind", ["vae", "text_encoder"])
def test_another_part_of_the_built_in_family(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "vae.safetensors", small("conv1.weight"), {"sfpp": json.dumps({"kind": kind})})
    message = refusal(path)
    assert f"this project's own {kind}" in message
    assert "loaded with the rest of the built-in model" in message


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"dim": 256}},
        {"model": None},
        {"rollout": {"chunk": 3}},
        {"rollout": {"steps": [10], "wings": 2}},
        {"rollout": {"chunk": 3, "window": 2, "steps": [1000]}},
        {"rollout": asdict(RolloutConfig()) | {"chunk": 3.0}},
        {"rollout": asdict(RolloutConfig()) | {"steps": [float("nan")]}},
        {"rollout": asdict(RolloutConfig()) | {"shift": float("inf")}},
        {"model": asdict(TINY) | {"num_layers": 3.0}},
        {"model": asdict(TINY) | {"eps": "small"}},
    ],
)
def test_an_own_header_that_cannot_be_used(changes: dict, weights: StateDict, tmp_path: Path) -> None:
    path = write(tmp_path / "own.safetensors", weights, own_header(**changes))
    assert "a sfpp header that cannot be used" in refusal(path)


def test_an_own_header_that_belongs_to_other_weights(weights: StateDict, tmp_path: Path) -> None:
    path = write(tmp_path / "own.safetensors", random_weights(replace(TINY, num_layers=2)), own_header())
    assert "a header of another model than the weights (num_layers 3 instead of 2)" in refusal(path)


@pytest.mark.parametrize("sizes", [{"num_layers": 10**9}, {"dim": 10**15, "num_heads": 1}, {"text_dim": 10**30}])
def test_an_own_header_is_not_believed_to_the_end_of_memory(
    sizes: dict[str, int], weights: StateDict, tmp_path: Path
) -> None:
    path = write(tmp_path / "own.safetensors", weights, own_header(model=asdict(TINY) | sizes))
    assert "a header of another model than the weights" in refusal(path)


# Files that would hang, or fill the memory.


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert "found no regular file" in refusal(tmp_path / "pipe.safetensors")


def test_a_header_that_claims_to_be_huge_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    path.write_bytes((99_000_000).to_bytes(8, "little") + b"{" + bytes(100))
    assert "whose header claims 99 MB" in refusal(path)


def test_hundreds_of_thousands_of_names_are_refused_within_seconds(tmp_path: Path) -> None:
    entries = {f"w{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(150_000)}
    header = json.dumps(entries, separators=(",", ":")).encode()
    path = tmp_path / "many.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    before = time.monotonic()
    assert "150,000 entries" in refusal(path)
    assert time.monotonic() - before < 20


@pytest.mark.parametrize("packed", [True, False])
def test_a_torch_file_that_would_fill_the_memory_is_refused(packed: bool, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        with archive.open("archive/data.pkl", "w", force_zip64=True) as file:
            for _ in range(120):
                file.write(bytes(1_000_000))
    sentence = "a packed zip file" if packed else "whose description takes 120 MB"
    assert sentence in refusal(path)


def test_dictionaries_nested_thousands_deep_are_refused(tmp_path: Path) -> None:
    """By hand: pickle cannot write it, and the unpickler reads it without recursion."""
    torch.save({"model": {"weight": torch.zeros(1)}}, tmp_path / "deep.pt")
    with zipfile.ZipFile(tmp_path / "deep.pt") as archive:
        content = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    (name,) = (name for name in content if name.endswith("data.pkl"))
    deep = b"\x80\x02" + b"}X\x05\x00\x00\x00model" * 20_000 + b"}" + b"s" * 20_000 + b"."
    with zipfile.ZipFile(tmp_path / "deep.pt", "w") as archive:
        for entry, data in content.items():
            archive.writestr(entry, deep if entry == name else data)
    assert "found a training file with the parts model" in refusal(tmp_path / "deep.pt")
