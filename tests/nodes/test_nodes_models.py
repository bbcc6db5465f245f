"""What may be wired as MODEL: ours, ComfyUI's own, with LoRAs, in other precisions; how a state tells them apart."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sfpp_client import NodeFailed
from sfpp_core.tiny.family import weights_path
from tests.nodes.graphs import Graph, Link, Studio, equal

STUDENT = "tiny_student.safetensors"
LORA = "tiny_lora.safetensors"


@pytest.fixture
def studio(comfy) -> Studio:
    return Studio(comfy)


@pytest.fixture(scope="module", autouse=True)
def model_files(comfy) -> Iterator[None]:
    """The built-in student and a LoRA for it among ComfyUI's models."""
    student = comfy.server.models_directory("diffusion_models") / STUDENT
    shutil.copyfile(weights_path("student"), student)
    write_lora(comfy.server.models_directory("loras") / LORA)
    yield
    student.unlink()


def write_lora(path: Path, *, rank: int = 4) -> None:
    """A random LoRA on queries and feed-forward of every block, in the layout that Wan LoRAs are published in."""
    generator = torch.Generator().manual_seed(0)
    factors = {}
    for name, weight in load_file(weights_path("student")).items():
        if not name.endswith(("self_attn.q.weight", "ffn.0.weight")):
            continue
        module = f"diffusion_model.{name.removesuffix('.weight')}"
        factors[f"{module}.lora_A.weight"] = torch.randn(rank, weight.shape[1], generator=generator) * 0.1
        factors[f"{module}.lora_B.weight"] = torch.randn(weight.shape[0], rank, generator=generator) * 0.1
    save_file(factors, path)


def ours(graph: Graph, **options: object) -> Link:
    settings = {"model_name": STUDENT, "weight_dtype": "default", "prefer_ema": True, "preset": "auto"}
    return [graph.add("SFPPLoadModel", **settings | options), 0]


def stock(graph: Graph, weight_dtype: str = "default") -> Link:
    return [graph.add("UNETLoader", unet_name=STUDENT, weight_dtype=weight_dtype), 0]


def with_lora(graph: Graph, model: Link, strength: float) -> Link:
    return [graph.add("LoraLoaderModelOnly", model=model, lora_name=LORA, strength_model=strength), 0]


def test_every_loader_gives_the_same_video(studio: Studio):
    """Also where the window has left the beginning: settings come with the weights, or are told by their size."""
    graph = Graph()
    built_in, clip, _ = graph.tiny()
    text = graph.text(clip)
    videos = [graph.video(model, text, seconds=6.5, seed=41)[0] for model in (built_in, ours(graph), stock(graph))]
    first, *others = studio.latents(graph, *videos)
    assert all(equal(first, other) for other in others)


def test_a_lora_changes_the_video_and_leaves_no_trace(studio: Studio):
    graph = Graph()
    _, clip, _ = graph.tiny()
    text = graph.text(clip)
    model = ours(graph)
    models = (model, with_lora(graph, model, 1.0), with_lora(graph, model, 0.5), with_lora(graph, stock(graph), 1.0))
    videos = [graph.video(each, text, seed=42)[0] for each in models]
    # Made last, after the LoRA was patched onto the very weights that all of these share.
    videos.append(graph.video(model, text, seed=42, seconds=1.0)[0])
    plain, full, half, full_on_stock, plain_again = studio.latents(graph, *videos)
    assert not equal(plain, full) and not equal(plain, half) and not equal(full, half)
    assert equal(full, full_on_stock)
    assert equal(plain, plain_again[:, :, :3])


def test_a_state_knows_its_model_by_the_weights(studio: Studio):
    """The same weights from another loader and in another precision go on; another LoRA is another model."""
    graph = Graph()
    built_in, clip, _ = graph.tiny()
    _, state = graph.video(built_in, graph.text(clip), seed=43)
    same = (built_in, stock(graph), ours(graph, weight_dtype="bf16"), ours(graph, weight_dtype="fp8_e4m3fn"))
    as_begun, from_stock, bf16, fp8 = studio.latents(graph, *(graph.more(model, state)[1] for model in same))
    assert equal(as_begun, from_stock)
    scale = as_begun[:, :, 3:].std()
    for other, tolerance in ((bf16, 0.1), (fp8, 1.0)):
        error = (other - as_begun)[:, :, 3:].std()
        assert 0 < error < tolerance * scale
    refused = Graph()
    model, clip, _ = refused.tiny()
    _, state = refused.video(model, refused.text(clip), seed=43)
    refused.keep(refused.more(with_lora(refused, model, 0.7), state)[1])
    with pytest.raises(NodeFailed, match="made by another model"):
        studio.run(refused)


def test_saved_states_go_on_bit_for_bit_in_a_new_process(studio: Studio, comfy):
    """Also with a LoRA, which is then a new object on newly loaded weights."""
    strengths = (None, 0.7)
    graph = Graph()
    model, clip, _ = graph.tiny()
    text = graph.text(clip)
    models = [model if strength is None else with_lora(graph, model, strength) for strength in strengths]
    in_one_go = [graph.keep(graph.video(each, text, seconds=1.5, seed=44)[0]) for each in models]
    states = [graph.video(each, text, seed=44)[1] for each in models]
    saves = [graph.add("SFPPSaveState", state=state, filename_prefix="states/test/half") for state in states]
    result = studio.run(graph)
    expected = [studio.latent(result, kept) for kept in in_one_go]
    saved = [result.outputs[save]["text"][0] for save in saves]
    # Half of it is the prompt's embedding; the cache alone would be several times as large.
    assert all((comfy.server.output_directory / name).stat().st_size < 1_000_000 for name in saved)

    comfy.restart()
    graph = Graph()
    model = stock(graph)
    models = [model if strength is None else with_lora(graph, model, strength) for strength in strengths]
    loaded = [[graph.add("SFPPLoadState", state_file=f"{name} [output]"), 0] for name in saved]
    pairs = zip(models, loaded, strict=True)
    continued = Studio(comfy).latents(graph, *(graph.more(each, state, seconds=1.5)[1] for each, state in pairs))
    assert not equal(*expected)
    for video, whole in zip(continued, expected, strict=True):
        assert equal(video[:, :, : whole.shape[2]], whole)


def test_the_preset_travels_with_the_model(studio: Studio):
    """A frame-wise preset makes chunks of one latent frame, through a LoRA loader too; widgets win over it."""
    graph = Graph()
    _, clip, _ = graph.tiny()
    text = graph.text(clip)
    model = with_lora(graph, ours(graph, preset="Causal-Forcing frame-wise, 4 steps"), 1.0)
    videos = [graph.video(model, text, seconds=0.8, **changes)[0] for changes in ({}, {"chunk": 3})]
    frame_wise, by_widget = studio.latents(graph, *videos)
    assert frame_wise.shape[2] == 4 and by_widget.shape[2] == 6


@pytest.mark.parametrize("widget, value", (("preset", "Nonesuch"), ("weight_dtype", "int3")))
def test_an_unknown_choice_is_refused(studio: Studio, widget: str, value: str):
    """By the server where it checks the combos of V3 nodes, otherwise by the node."""
    graph = Graph()
    _, clip, _ = graph.tiny()
    graph.keep(graph.video(ours(graph, **{widget: value}), graph.text(clip))[0])
    with pytest.raises(Exception, match=value):
        studio.run(graph)
