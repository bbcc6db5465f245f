"""What is wired and does not act is said on the node, and what acts is not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from safetensors.torch import load_file, save_file

from sfpp_client import NodeFailed, RunResult
from sfpp_core.tiny.family import weights_path
from tests.nodes.graphs import ONE_CHUNK, Graph, Link
from tests.nodes.wired import LORA, ONE_STEP, STUDENT, VAE, Bench, Wire, behind, copy_of, plain, wired_server

SMALLER = "smaller.safetensors"
"""A model of another size than the built-in one, in a file that says nothing of how it was trained."""

NO_GAIN = "is not made faster"
AS_WITHOUT = "The video is as without it"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with wired_server(tmp_path_factory.mktemp("inactive"), keeps=True) as comfy:
        weights = load_file(weights_path("student"))
        blocks = {name.split(".")[1] for name in weights if name.startswith("blocks.")}
        last = f"blocks.{max(map(int, blocks))}."
        fewer = {name: weight for name, weight in weights.items() if not name.startswith(last)}
        save_file(fewer, comfy.server.models_directory("diffusion_models") / SMALLER)
        yield Bench(comfy)


def sentences(result: RunResult, node: str) -> list[str]:
    """What a node leaves behind, a sentence a line."""
    (text,) = result.outputs[node]["text"]
    return text.split("\n")


def said_by_sampler(bench: Bench, wire: Wire = plain, prompt: Wire = plain, *, file: str = STUDENT) -> list[str]:
    """What SFPP Sampler says of its wires: all but the length and what was on disk."""
    graph = Graph()
    _, clip, _ = graph.tiny()
    model = wire(graph, Bench.model(graph, file))
    video, _ = graph.video(model, prompt(graph, graph.text(clip)), steps=ONE_STEP)
    graph.keep(video)
    return of_wires(sentences(bench.studio.run(graph), video[0]))


def of_wires(said: list[str]) -> list[str]:
    assert " frames" in said[0] or " s" in said[0], said
    return [sentence for sentence in said[1:] if "reused from disk" not in sentence]


def hooks(graph: Graph, text: Link) -> Link:
    lora = [graph.add("CreateHookLora", lora_name=LORA, strength_model=1.0, strength_clip=1.0), 0]
    settings = {"strength": 1.0, "set_cond_area": "default"}
    return [graph.add("ConditioningSetProperties", cond_NEW=text, hooks=lora, **settings), 0]


def mask(graph: Graph, text: Link) -> Link:
    solid = [graph.add("SolidMask", value=0.5, width=64, height=64), 0]
    settings = {"mask": solid, "strength": 1.0, "set_cond_area": "default"}
    return [graph.add("ConditioningSetMask", conditioning=text, **settings), 0]


def start_image(graph: Graph, text: Link) -> Link:
    image = [graph.add("EmptyImage", width=64, height=64, batch_size=1, color=0), 0]
    vae = [graph.add("VAELoader", vae_name=VAE), 0]
    size = {"width": 64, "height": 64, "length": 9, "batch_size": 1}
    return [graph.add("WanImageToVideo", positive=text, negative=text, vae=vae, start_image=image, **size), 0]


def reference(graph: Graph, text: Link) -> Link:
    latent = [graph.add("EmptyHunyuanLatentVideo", width=64, height=64, length=1, batch_size=1), 0]
    return [graph.add("ReferenceLatent", conditioning=text, latent=latent), 0]


def chained(*wires: Wire) -> Wire:
    def wire(graph: Graph, link: Link) -> Link:
        for one in wires:
            link = one(graph, link)
        return link

    return wire


EASY_CACHE = behind("EasyCache", reuse_threshold=0.2, start_percent=0.15, end_percent=0.95, verbose=False)
LAZY_CACHE = behind("LazyCache", reuse_threshold=0.2, start_percent=0.15, end_percent=0.95, verbose=False)
WINDOWS = {"context_length": 81, "context_overlap": 30, "context_schedule": "standard_static", "context_stride": 1}
WINDOWS |= {"closed_loop": False, "fuse_method": "pyramid"}
WINDOWS |= {"freenoise": False, "retain_first_frame": False, "split_conds_to_windows": False}  # from 0.4 on
ROPE = {"scale_x": 1.0, "shift_x": 0.0, "scale_y": 1.0, "shift_y": 0.0, "scale_t": 2.0, "shift_t": 0.0}
SLG = {"double_layers": "1", "single_layers": "1", "scale": 3.0, "start_percent": 0.01, "end_percent": 0.15}

OF_MODEL: dict[str, tuple[Wire, tuple[str, ...]]] = {
    "EasyCache": (EASY_CACHE, ("A step cache on MODEL (EasyCache) does not act", NO_GAIN)),
    "LazyCache": (LAZY_CACHE, ("A step cache on MODEL (LazyCache) does not act", NO_GAIN)),
    "another pack's step cache": (
        behind("WiredStepCache", strength=0.5),
        ("A step cache on MODEL (wired_cache)", NO_GAIN),
    ),
    "TeaCache": (behind("WiredTeaCache", strength=0.5), ("A step cache on MODEL (TeaCache) does not act", NO_GAIN)),
    "context windows": (
        behind("WanContextWindowsManual", **WINDOWS),
        ("Context windows on MODEL", "the widget window of SFPP Sampler"),
    ),
    "shift": (behind("ModelSamplingSD3", shift=8.0), ("A sampling patch on MODEL (ModelSamplingSD3)", "shift")),
    "RescaleCFG": (behind("RescaleCFG", multiplier=0.7), ("Changed guidance on MODEL (RescaleCFG)", AS_WITHOUT)),
    "CFGZeroStar": (behind("CFGZeroStar"), ("Changed guidance on MODEL (CFGZeroStar)", AS_WITHOUT)),
    "old guidance": (
        behind("VideoLinearCFGGuidance", min_cfg=1.0),
        ("Changed guidance on MODEL (VideoLinearCFGGuidance)", AS_WITHOUT),
    ),
    "differential diffusion": (
        behind("DifferentialDiffusion"),
        ("A denoise mask function on MODEL (DifferentialDiffusion)", AS_WITHOUT),
    ),
    "positions": (behind("ScaleROPE", **ROPE), ("A change of the positions on MODEL", AS_WITHOUT)),
    "block patches": (
        behind("WiredBlockPatches", strength=0.5),
        ("An attention or block patch on MODEL (BlockPatches)", AS_WITHOUT),
    ),
    "attention patches": (
        behind("WiredAttentionPatches", strength=0.5),
        ("An attention or block patch on MODEL (AttentionPatches)", AS_WITHOUT),
    ),
    "Enhance-A-Video": (
        behind("WiredSelfAttentionForward", strength=0.5),
        ("(blocks.*.self_attn.forward) does not act", AS_WITHOUT),
    ),
    "stock compile": (
        behind("TorchCompileModel", backend="inductor"),
        ("torch.compile of MODEL does not act", NO_GAIN),
    ),
    "compiled blocks": (behind("WiredCompileBlocks"), ("torch.compile of MODEL does not act", NO_GAIN)),
    "compiled whole": (behind("WiredCompileWhole"), ("torch.compile of MODEL does not act", NO_GAIN)),
    "compiled by a wrapper": (behind("WiredCompileByModel"), ("torch.compile of MODEL does not act", NO_GAIN)),
    "unknown": (
        behind("WiredNote", strength=0.5),
        ("that the sampler does not know (wired_note, wired_attachment)", "nothing here"),
    ),
}
"""What is wired to MODEL, and words of the one sentence that is said of it."""

OF_PROMPT: dict[str, tuple[Wire, tuple[str, ...]]] = {
    "area": (
        behind("ConditioningSetArea", socket="conditioning", width=64, height=64, x=0, y=0, strength=0.5),
        ("The area, mask or strength of positive (area, set_area_to_bounds, strength)", "the whole picture"),
    ),
    "mask": (mask, ("The area, mask or strength of positive (mask", "the whole picture")),
    "range": (
        behind("ConditioningSetTimestepRange", socket="conditioning", start=0.1, end=0.5),
        ("The range of steps of positive (end_percent, start_percent)", "SFPP Prompt Schedule"),
    ),
    "hooks": (hooks, ("Hooks on positive (hooks)", "Use a LoRA loader on MODEL")),
    "picture": (start_image, ("The picture in positive (concat_latent_image, concat_mask)", "VAE Encode into start")),
    "reference": (reference, ("The reference in positive (reference_latents)", "the text alone")),
    "guidance": (
        behind("FluxGuidance", socket="conditioning", guidance=3.5),
        ("A setting in positive (guidance)", "no guidance"),
    ),
    "unknown": (
        behind("WiredNoteOnPrompt", socket="conditioning"),
        ("positive carries wired_note, which the sampler does not know", "nothing here"),
    ),
}
"""The same of positive. Area and strength may come with neighbours."""

ACTING: dict[str, Wire] = {
    "nothing": plain,
    "LoRA": behind("LoraLoaderModelOnly", lora_name=LORA, strength_model=1.0),
    "number format": behind("ModelComputeDtype", dtype="bf16"),
    "attention kernel": behind("WiredSageAttention", scale=0.5),
    "layer": behind("WiredLeafLayer", strength=0.5),
    "what a layer does": behind("WiredLeafForward", strength=0.5),
    "weight wrapper": behind("WiredWeightWrapper", strength=0.5),
    "callback": behind("WiredOnLoad", strength=0.5),
    "kernel that may read what is unknown": chained(
        behind("WiredNote", strength=0.5), behind("WiredClosure", scale=0.5)
    ),
}


@pytest.mark.parametrize("case", OF_MODEL)
def test_what_is_on_the_model_and_does_not_act_is_said_in_one_sentence(bench: Bench, case: str):
    wire, words = OF_MODEL[case]
    (sentence,) = said_by_sampler(bench, wire)
    assert all(word in sentence for word in words), sentence


@pytest.mark.parametrize("case", OF_PROMPT)
def test_what_is_on_the_prompt_and_does_not_act_is_said_in_one_sentence(bench: Bench, case: str):
    prompt, words = OF_PROMPT[case]
    (sentence,) = said_by_sampler(bench, prompt=prompt)
    assert all(word in sentence for word in words), sentence


@pytest.mark.parametrize("case", ACTING)
def test_nothing_is_said_of_what_acts(bench: Bench, case: str):
    assert said_by_sampler(bench, ACTING[case]) == []


def test_several_kinds_are_several_sentences_and_each_is_said_once(bench: Bench):
    wire = chained(
        EASY_CACHE, behind("RescaleCFG", multiplier=0.7), behind("CFGZeroStar"), behind("WiredTeaCache", strength=0.5)
    )
    said = said_by_sampler(bench, wire, OF_PROMPT["range"][0])
    assert len(said) == 3
    assert any("(EasyCache, TeaCache)" in sentence or "(TeaCache, EasyCache)" in sentence for sentence in said), said
    assert any("RescaleCFG" in sentence and "CFGZeroStar" in sentence for sentence in said), said


def test_what_is_said_of_the_sampler_is_said_of_extend(bench: Bench):
    graph = Graph()
    _, clip, _ = graph.tiny()
    model = Bench.model(graph, STUDENT)
    _, state = graph.video(model, graph.text(clip), steps=ONE_STEP)
    hooked = OF_PROMPT["range"][0](graph, graph.text(clip))
    longer, _, _ = graph.more(EASY_CACHE(graph, model), state, seconds=ONE_CHUNK, positive=hooked)
    graph.keep(longer)
    first, second = of_wires(sentences(bench.studio.run(graph), longer[0]))
    assert "EasyCache" in first and "range of steps" in second


def test_a_mask_on_the_start_is_told(bench: Bench):
    graph = Graph()
    _, clip, vae = graph.tiny()
    image = [graph.add("EmptyImage", width=64, height=64, batch_size=1, color=255), 0]
    start = [graph.add("VAEEncode", pixels=image, vae=vae), 0]
    solid = [graph.add("SolidMask", value=0.5, width=64, height=64), 0]
    masked = [graph.add("SetLatentNoiseMask", samples=start, mask=solid), 0]
    video, _ = graph.video(Bench.model(graph, STUDENT), graph.text(clip), steps=ONE_STEP, start=masked)
    graph.keep(video)
    (sentence,) = of_wires(sentences(bench.studio.run(graph), video[0]))
    assert "The mask of start (noise_mask) does not act" in sentence


def test_several_latents_in_one_are_refused_in_a_sentence(bench: Bench):
    graph = Graph()
    _, clip, _ = graph.tiny()
    video = [graph.add("EmptyHunyuanLatentVideo", width=64, height=64, length=9, batch_size=1), 0]
    start = [graph.add("WiredSeveralLatents", video=video), 0]
    graph.keep(graph.video(Bench.model(graph, STUDENT), graph.text(clip), steps=ONE_STEP, start=start)[0])
    with pytest.raises(NodeFailed, match="start holds several latents in one.*from VAE Encode or SFPP Sampler"):
        bench.studio.run(graph)


def test_a_model_without_a_preset_is_told(bench: Bench):
    (sentence,) = [sentence for sentence in sentences(*_run_of(bench, SMALLER)) if "no preset" in sentence]
    assert "SFPP Load Model" in sentence and "Self-Forcing's settings" in sentence


def _run_of(bench: Bench, file: str) -> tuple[RunResult, str]:
    graph = Graph()
    _, clip, _ = graph.tiny()
    video, _ = graph.video(Bench.model(graph, file), graph.text(clip), steps=ONE_STEP)
    graph.keep(video)
    return bench.studio.run(graph), video[0]


@pytest.mark.parametrize("number, node", list(enumerate(["WiredCompileVAE", "WiredCompileWholeVAE", None])))
def test_a_compiled_vae_is_told_where_it_is_decoded(bench: Bench, number: int, node: str | None):
    graph = Graph()
    _, clip, _ = graph.tiny()
    video, _ = graph.video(Bench.model(graph, STUDENT), graph.text(clip), steps=ONE_STEP)
    vae = [graph.add("VAELoader", vae_name=copy_of(VAE, number)), 0]
    if node is not None:
        parts = {"compile_encoder": True, "compile_decoder": True} if node == "WiredCompileVAE" else {}
        vae = [graph.add(node, vae=vae, **parts), 0]
    settings = {"filename_prefix": "compiled", "crf": 18, "thumbnail": False}
    decode = graph.add("SFPPDecodeToVideo", latent=video, vae=vae, **settings)
    said = "".join(bench.studio.run(graph).outputs[decode].get("text", ()))
    assert ("torch.compile of VAE does not act" in said) == (node is not None), said
