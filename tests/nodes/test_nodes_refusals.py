"""What cannot work is refused before anything is sampled, in a sentence that names the input and says what to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sfpp_client import NodeFailed, Progress, WorkflowRefused
from sfpp_core.wan.config import WanConfig
from sfpp_core.wan.transformer import WanTransformer
from tests.nodes.conftest import Comfy
from tests.nodes.graphs import Graph, Link, Studio
from tools.comfy_server import ComfyServer, ServerConfig

SMALL = WanConfig(dim=128, ffn_dim=64, num_heads=1, num_layers=1, text_dim=4096)


@pytest.fixture(scope="module", autouse=True)
def files_of_other_kinds(comfy) -> None:
    """What an artist may choose by mistake."""
    models = comfy.server.models_directory("diffusion_models")
    save_file(image_to_video_weights(), models / "image_to_video.safetensors")
    five_b = WanTransformer(replace(SMALL, in_channels=48, out_channels=48))
    save_file(five_b.state_dict(), models / "wan22_5b.safetensors")
    (models / "notes.safetensors").write_text("not a checkpoint")
    # By this weight ComfyUI knows Stable Diffusion's text encoder; it makes up the rest.
    clip = {"text_model.encoder.layers.0.mlp.fc1.weight": torch.zeros(3072, 768)}
    save_file(clip, comfy.server.models_directory("text_encoders") / "clip_l.safetensors")


@pytest.fixture
def studio(comfy) -> Studio:
    return Studio(comfy)


def image_to_video_weights() -> dict[str, torch.Tensor]:
    """Wan 2.1 image-to-video in small: 36 input channels, and attention to an image embedding."""
    weights = WanTransformer(replace(SMALL, in_channels=36)).state_dict()
    dim = SMALL.dim
    for name in ("k_img", "v_img"):
        weights[f"blocks.0.cross_attn.{name}.weight"] = torch.zeros(dim, dim)
        weights[f"blocks.0.cross_attn.{name}.bias"] = torch.zeros(dim)
    weights["blocks.0.cross_attn.norm_k_img.weight"] = torch.ones(dim)
    for layer, shape in ((0, (1280,)), (1, (1280, 1280)), (3, (dim, 1280)), (4, (dim,))):
        weights[f"img_emb.proj.{layer}.weight"] = torch.zeros(shape)
        weights[f"img_emb.proj.{layer}.bias"] = torch.zeros(shape[0])
    return weights


def refusal(studio: Studio, graph: Graph, latent: Link) -> str:
    """Run a graph that must be refused without a single step having been made, and return the sentence."""
    graph.keep(latent)
    events = []
    with pytest.raises((NodeFailed, WorkflowRefused)) as refused:
        studio.run(graph, on_event=events.append)
    assert not any(isinstance(event, Progress) for event in events), "it was refused only after sampling had begun"
    return str(refused.value)


@pytest.mark.parametrize(
    "widgets, sentence",
    (
        ({"width": 100}, "width is 100; it must be a positive multiple of 16 pixels. Try 96."),
        ({"width": 0}, "width is 0; it must be a positive multiple of 16 pixels. Try 16."),
        ({"width": 100_000}, "width is 100000; it can be 8192 pixels at most."),
        ({"height": "tall"}, "height, tall, invalid literal for int()"),
        ({"height": 72}, "height is 72; it must be a positive multiple of 16 pixels. Try 64."),
        ({"window": 2}, "window is 2, but it must hold the sink (0) and the current chunk (3)"),
        ({"window": 9, "sink": 7}, "window is 9, but it must hold the sink (7) and the current chunk (3)"),
        ({"chunk": 0}, "chunk is 0; at least 1 latent frame"),
        ({"steps": ""}, "steps is empty. Type timesteps such as 1000, 750, 500, 250, or the word preset."),
        ({"steps": " , "}, "steps is empty."),
        ({"steps": "1000, many"}, "steps is '1000, many'. Type numbers separated by commas"),
        ({"steps": "250, 500"}, "steps are 250, 500; they must fall"),
        ({"steps": "1500, 500"}, "steps are 1500, 500; they must fall from at most 1000"),
        ({"steps": "1000, 0"}, "stay above 0"),
        ({"steps": "1000, nan"}, "steps are 1000, nan"),
        ({"shift": 0.0}, "shift is 0; it must be above 0"),
        ({"seconds": 0.0}, "seconds"),
        ({"seed": -1}, "seed"),
    ),
)
def test_widgets(studio: Studio, widgets: dict[str, object], sentence: str):
    graph = Graph()
    model, clip, _ = graph.tiny()
    assert sentence in refusal(studio, graph, graph.video(model, graph.text(clip), **widgets)[0])


def test_impossible_sizes_are_refused_before_the_queue(studio: Studio):
    graph = Graph()
    model, clip, _ = graph.tiny()
    graph.keep(graph.video(model, graph.text(clip), width=100)[0])
    with pytest.raises(WorkflowRefused, match="Try 96"):
        studio.run(graph)


def test_a_size_that_is_wired_in_has_the_same_limits(studio: Studio):
    graph = Graph()
    model, clip, _ = graph.tiny()
    width = [graph.add("PrimitiveInt", value=100_000), 0]
    assert "it can be 8192 pixels at most" in refusal(
        studio, graph, graph.video(model, graph.text(clip), width=width)[0]
    )


@pytest.mark.parametrize("widget", ("width", "shift"))
def test_a_missing_widget_is_called_missing(studio: Studio, widget: str):
    graph = Graph()
    model, clip, _ = graph.tiny()
    video, _ = graph.video(model, graph.text(clip))
    del graph.workflow[video[0]]["inputs"][widget]
    assert f"Required input is missing: {widget}" in refusal(studio, graph, video)


@pytest.mark.parametrize(
    "file, sentence",
    (
        ("image_to_video.safetensors", "MODEL is an image-to-video model"),
        ("wan22_5b.safetensors", "MODEL is a model of 48-channel latents"),
    ),
)
def test_other_models_from_the_stock_loader(studio: Studio, file: str, sentence: str):
    graph = Graph()
    _, clip, _ = graph.tiny()
    model = [graph.add("UNETLoader", unet_name=file, weight_dtype="default"), 0]
    said = refusal(studio, graph, graph.video(model, graph.text(clip))[0])
    assert sentence in said and "Wire a Wan 2.1 text-to-video model" in said


@pytest.mark.parametrize("file", ("image_to_video.safetensors", "wan22_5b.safetensors", "notes.safetensors"))
def test_other_files_in_our_loader(studio: Studio, file: str):
    graph = Graph()
    _, clip, _ = graph.tiny()
    settings = {"weight_dtype": "default", "prefer_ema": True, "preset": "auto"}
    model = [graph.add("SFPPLoadModel", model_name=file, **settings), 0]
    assert file in refusal(studio, graph, graph.video(model, graph.text(clip))[0])


def test_a_file_that_another_loader_reads_is_refused_with_the_way_round(comfy, studio: Studio):
    name = "blocks.safetensors"
    (comfy.server.models_directory("diffusion_models") / name).write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(64))
    graph = Graph()
    _, clip, _ = graph.tiny()
    model = [graph.add("SFPPLoadModel", model_name=name, weight_dtype="default", prefer_ema=True, preset="auto"), 0]
    said = refusal(studio, graph, graph.video(model, graph.text(clip))[0])
    assert "a GGUF file" in said and "the MODEL of any loader node, ComfyUI's own Load Diffusion Model" in said


def test_conditioning_of_another_model(studio: Studio):
    graph = Graph()
    model, _, _ = graph.tiny()
    clip = [graph.add("CLIPLoader", clip_name="clip_l.safetensors", type="stable_diffusion"), 0]
    said = refusal(studio, graph, graph.video(model, graph.text(clip))[0])
    assert "positive is 768 wide, but this MODEL reads prompts that are 4096 wide" in said


def test_a_new_prompt_of_another_model(studio: Studio):
    graph = Graph()
    model, clip, _ = graph.tiny()
    _, state = graph.video(model, graph.text(clip))
    studio.latents(graph, graph.more(model, state)[0])
    other = [graph.add("CLIPLoader", clip_name="clip_l.safetensors", type="stable_diffusion"), 0]
    said = refusal(studio, graph, graph.more(model, state, positive=graph.text(other))[0])
    assert "positive is 768 wide" in said


def test_several_prompts_at_once(studio: Studio):
    graph = Graph()
    model, clip, _ = graph.tiny()
    both = [graph.add("ConditioningCombine", conditioning_1=graph.text(clip), conditioning_2=graph.text(clip)), 0]
    assert "positive holds 2 prompts" in refusal(studio, graph, graph.video(model, both)[0])


@pytest.mark.parametrize(
    "width, num, sentence",
    (
        (96, 1, "start is 96x64 pixels, but width and height say 64x"),
        (64, 2, "start holds a batch of 2 videos"),
    ),
)
def test_starts_of_another_size_or_number(studio: Studio, width: int, num: int, sentence: str):
    graph = Graph()
    model, clip, vae = graph.tiny()
    image = [graph.add("EmptyImage", width=width, height=64, batch_size=1, color=0), 0]
    one = [graph.add("VAEEncode", pixels=image, vae=vae), 0]
    start = [graph.add("RepeatLatentBatch", samples=one, amount=num), 0]
    assert sentence in refusal(studio, graph, graph.video(model, graph.text(clip), start=start)[0])


@pytest.mark.parametrize("node, length", (("EmptyHunyuanLatentVideo", {"length": 9}), ("EmptyLatentImage", {})))
def test_an_empty_start(studio: Studio, node: str, length: dict[str, int]):
    graph = Graph()
    model, clip, _ = graph.tiny()
    start = [graph.add(node, width=64, height=64, batch_size=1, **length), 0]
    said = refusal(studio, graph, graph.video(model, graph.text(clip), start=start)[0])
    assert "start is an empty latent (all zeros)" in said and "Take the wire off" in said


def test_a_latent_of_another_kind(studio: Studio):
    graph = Graph()
    *_, vae = graph.tiny()
    image = [graph.add("EmptyLatentImage", width=64, height=64, batch_size=1), 0]
    graph.add("SFPPDecodeToVideo", latent=image, vae=vae, filename_prefix="never", crf=18)
    with pytest.raises(NodeFailed, match=r"latent has shape \(1, 4, 8, 8\); a Wan 2.1 video latent is \[1, 16, frames"):
        studio.run(graph)


def test_a_state_in_a_latent_socket_and_the_other_way_round(studio: Studio):
    graph = Graph()
    model, clip, _ = graph.tiny()
    video, state = graph.video(model, graph.text(clip))
    graph.keep(state)
    graph.keep(graph.more(model, video)[0])
    with pytest.raises(WorkflowRefused) as refused:
        studio.run(graph)
    assert str(refused.value).count("SFPP_STATE") >= 2


@pytest.mark.parametrize("name", ("../../../etc/passwd", "/etc/passwd", "nothing.sfpp.safetensors [output]"))
def test_states_outside_the_folders(studio: Studio, name: str):
    graph = Graph()
    model, _, _ = graph.tiny()
    graph.keep(graph.more(model, [graph.add("SFPPLoadState", state_file=name), 0])[0])
    with pytest.raises(WorkflowRefused, match="is not among the saved states"):
        studio.run(graph)


@pytest.mark.parametrize(
    "prefix, reason",
    (
        ("../escaped", "outside the output folder"),
        ("/tmp/escaped", "outside the output folder"),
        ("a/../../escaped", "outside the output folder"),
        ("", "names no file"),
        ("video/..", "names no file"),
        ("x" * 300, "holds a name of more than 200 bytes"),
        ("escaped\0", "holds a character that no file name has"),
    ),
)
def test_names_that_no_file_can_have_are_refused_before_the_queue(studio: Studio, comfy, prefix: str, reason: str):
    graph = Graph()
    model, clip, vae = graph.tiny()
    video, state = graph.video(model, graph.text(clip))
    graph.add("SFPPSaveState", state=state, filename_prefix=prefix)
    with pytest.raises(WorkflowRefused, match=reason):
        studio.run(graph)
    graph.workflow.popitem()
    graph.add("SFPPDecodeToVideo", latent=video, vae=vae, filename_prefix=prefix, crf=18)
    with pytest.raises(WorkflowRefused, match=reason):
        studio.run(graph)
    assert not list(comfy.server.base_directory.glob("*escaped*")) and not list(Path("/tmp").glob("escaped*"))


def test_a_name_that_is_wired_in_stays_in_the_output_folder(studio: Studio, comfy):
    graph = Graph()
    _, _, vae = graph.tiny()
    video = [graph.add("EmptyHunyuanLatentVideo", width=64, height=64, length=9, batch_size=1), 0]
    prefix = [graph.add("PrimitiveString", value="../escaped"), 0]
    graph.add("SFPPDecodeToVideo", latent=video, vae=vae, filename_prefix=prefix, crf=18)
    with pytest.raises(NodeFailed, match="outside the output folder. Type a name such as video/film"):
        studio.run(graph)
    assert not list(comfy.server.base_directory.glob("*escaped*"))


def test_a_decoding_that_fails_leaves_no_weights_behind(studio: Studio, comfy):
    """ComfyUI looks for weights whose patcher is gone, and calls what it finds a leak."""
    broken = {"latent_tensor": torch.full((1, 16, 2, 8, 8), torch.nan), "latent_format_version_0": torch.tensor([])}
    save_file(broken, comfy.server.input_directory / "broken.latent")
    graph = Graph()
    model, clip, vae = graph.tiny()
    graph.add(
        "SFPPDecodeToVideo",
        latent=[graph.add("LoadLatent", latent="broken.latent"), 0],
        vae=vae,
        filename_prefix="never",
        crf=18,
    )
    with pytest.raises(NodeFailed, match="non-finite"):
        studio.run(graph)
    graph.workflow.popitem()
    graph.keep(graph.video(model, graph.text(clip), seed=11)[0])
    log = comfy.server.log_path
    before = log.stat().st_size
    studio.run(graph)
    assert "leak" not in log.read_text(encoding="utf-8", errors="replace")[before:]


def test_a_vae_of_another_kind(studio: Studio, comfy):
    graph = Graph()
    vae = [graph.add("VAELoader", vae_name="pixel_space"), 0]
    video = [graph.add("EmptyHunyuanLatentVideo", width=64, height=64, length=9, batch_size=1), 0]
    graph.add("SFPPDecodeToVideo", latent=video, vae=vae, filename_prefix="never", crf=18)
    with pytest.raises(NodeFailed) as refused:
        studio.run(graph)
    assert "VAE does not fit: this is not a Wan 2.1 VAE" in str(refused.value)
    assert "Wire the Wan 2.1 VAE" in str(refused.value)
    assert not list(comfy.server.output_directory.glob("*never*"))


def test_a_latent_of_another_kind_in_the_decoder(studio: Studio):
    graph = Graph()
    _, _, vae = graph.tiny()
    video = [graph.add("EmptyLatentImage", width=64, height=64, batch_size=1), 0]
    graph.add("SFPPDecodeToVideo", latent=video, vae=vae, filename_prefix="never", crf=18)
    with pytest.raises(NodeFailed, match=r"latent has shape \(1, 4, 8, 8\)"):
        studio.run(graph)


def test_a_vae_that_does_not_fit_is_found_before_the_video_is_sampled(studio: Studio):
    graph = Graph()
    model, clip, _ = graph.tiny()
    vae = [graph.add("VAELoader", vae_name="pixel_space"), 0]
    video, _ = graph.video(model, graph.text(clip), seconds=60.0, seed=12)
    graph.add("SFPPDecodeToVideo", latent=video, vae=vae, filename_prefix="never", crf=18)
    events: list[object] = []
    with pytest.raises(NodeFailed, match="VAE does not fit"):
        studio.run(graph, on_event=events.append)
    assert not any(isinstance(event, Progress) for event in events)


SILENT = """
class Silent(dict):
    def __getitem__(self, name):
        raise Exception("Failed to extract audio from clip.mp4")


class SilentAudio:
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("AUDIO",), "load", "tests"

    def load(self):
        return (Silent(),)


NODE_CLASS_MAPPINGS = {"SilentAudio": SilentAudio}
"""


def test_sound_that_cannot_be_read_is_found_before_the_video_is_sampled(tmp_path: Path):
    """As loaders of other packs give it: it is read only when somebody asks for it."""
    (tmp_path / "custom_nodes").mkdir()
    (tmp_path / "custom_nodes" / "silent_audio.py").write_text(SILENT)
    graph = Graph()
    model, clip, vae = graph.tiny()
    video, _ = graph.video(model, graph.text(clip), seconds=60.0, seed=13)
    audio = [graph.add("SilentAudio"), 0]
    graph.add("SFPPDecodeToVideo", latent=video, vae=vae, filename_prefix="never", crf=18, audio=audio)
    events: list[object] = []
    with ComfyServer(ServerConfig(base_directory=tmp_path)) as server, pytest.raises(NodeFailed) as failed:
        Studio(Comfy(server)).run(graph, on_event=events.append)
    assert "audio cannot be read (Failed to extract audio from clip.mp4)" in str(failed.value)
    assert "may have no sound. Take audio off." in str(failed.value)
    assert not any(isinstance(event, Progress) for event in events)
