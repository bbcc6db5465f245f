"""The workflows that come with the pack: both formats say the same, and those without downloads run to their end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import pytest
from einops import reduce
from PIL import Image

from scripts.comfy_client import Preview, Progress, RunInterrupted, RunResult
from scripts.comfy_server import ROOT, ComfyServer, ServerConfig
from scripts.comfy_workflow import Workflow, load_workflow, with_inputs
from tests.comfy.conftest import Comfy
from tests.comfy.graphs import Graph, Studio

PAGE = ROOT / "workflows"
API = PAGE / "api"
NAMES = sorted(path.stem for path in API.glob("*.json"))
TINY = [name for name in NAMES if name.startswith("tiny_")]
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
NOTES = {"Note", "MarkdownNote"}
"""Nodes that only the page knows."""
ANY_TYPE = "*"

FRAMES = {
    "tiny_text_to_long_video": 21,
    "tiny_extend_with_second_prompt": 21 + 12,
    "tiny_film_with_stability_report": 21,
}
"""Length of the film when every node that makes some is asked for SHORT."""
SHORT = {"SFPPSampler": 1.3, "SFPPExtend": 0.75}
"""Seconds: two chunks to begin with, one to go on."""


@pytest.fixture
def studio(comfy) -> Studio:
    return Studio(comfy)


def read_page(name: str) -> dict[str, Any]:
    return json.loads((PAGE / f"{name}.json").read_text(encoding="utf-8"))


def shortened(name: str, *, seed: int) -> Workflow:
    """The workflow with SHORT lengths; with a seed of its own, ComfyUI finds nothing of it in its cache."""
    workflow = with_inputs(load_workflow(API / f"{name}.json"), "SFPPSampler", seed=seed)
    for class_type, seconds in SHORT.items():
        if any(node["class_type"] == class_type for node in workflow.values()):
            workflow = with_inputs(workflow, class_type, seconds=seconds)
    return workflow


def api_of_page(page: Mapping[str, Any], object_info: Mapping[str, Any]) -> dict[str, Any]:
    """What ComfyUI's page would queue for a workflow in its own format (version 0.4)."""
    links = {link[0]: link for link in page["links"]}
    nodes = [node for node in page["nodes"] if node["type"] not in NOTES]
    return {str(node["id"]): _api_node(node, links, object_info[node["type"]]) for node in nodes}


def _api_node(node: Mapping[str, Any], links: Mapping[int, list[Any]], info: Mapping[str, Any]) -> dict[str, Any]:
    inputs: dict[str, Any] = dict(_widget_values(node, info))
    for slot, entry in enumerate(node["inputs"]):
        if entry["link"] is None:
            continue
        _, source, source_slot, target, target_slot, kind = links[entry["link"]]
        assert (target, target_slot) == (node["id"], slot)
        assert kind in entry["type"].split(",") or entry["type"] == ANY_TYPE
        inputs[entry["name"]] = [str(source), source_slot]
    return {"class_type": node["type"], "inputs": inputs}


def _widget_values(node: Mapping[str, Any], info: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    values = iter(node["widgets_values"])
    for group in ("required", "optional"):
        for name in info["input_order"].get(group, []):
            kind, *rest = info["input"][group][name]
            if not isinstance(kind, list) and kind not in WIDGETS:
                continue
            yield name, next(values)
            if name in ("seed", "noise_seed") or (rest and rest[0].get("control_after_generate")):
                assert next(values) in ("fixed", "randomize", "increment", "decrement")
    assert next(values, None) is None, f"node {node['id']} has more widget values than widgets"


def test_there_is_one_of_each_format():
    assert NAMES and NAMES == sorted(path.stem for path in PAGE.glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_page_and_api_say_the_same(comfy, name: str):
    assert api_of_page(read_page(name), comfy.client.object_info()) == load_workflow(API / f"{name}.json")


@pytest.mark.parametrize("name", NAMES)
def test_the_page_accepts_its_format(name: str):
    """Both ends of every link agree, ids are counted, nothing is left unexplained, and no node hides another."""
    page = read_page(name)
    assert page["version"] == 0.4
    nodes = {node["id"]: node for node in page["nodes"]}
    assert page["last_node_id"] == max(nodes) and page["last_link_id"] == max(link[0] for link in page["links"])
    for identity, source, source_slot, target, target_slot, kind in page["links"]:
        assert identity in nodes[source]["outputs"][source_slot]["links"]
        assert nodes[source]["outputs"][source_slot]["type"] == kind
        assert nodes[target]["inputs"][target_slot]["link"] == identity
    for node in nodes.values():
        assert {"type", "pos", "flags", "order", "mode", "properties"} <= node.keys()
    assert any(node["type"] in NOTES for node in nodes.values()) and page["groups"]
    boxes = [(*node["pos"], *node["size"]) for node in nodes.values()]
    for index, (x, y, width, height) in enumerate(boxes):
        for other_x, other_y, other_width, other_height in boxes[:index]:
            apart_x = x >= other_x + other_width or other_x >= x + width
            assert apart_x or y >= other_y + other_height or other_y >= y + height


@pytest.mark.parametrize("name", NAMES)
def test_nodes_and_choices_exist(comfy, name: str):
    """Files apart, every widget holds something that the node offers."""
    info = comfy.client.object_info()
    for node in load_workflow(API / f"{name}.json").values():
        specifications = info[node["class_type"]]["input"]
        known = {**specifications.get("required", {}), **specifications.get("optional", {})}
        assert node["inputs"].keys() <= known.keys()
        assert specifications.get("required", {}).keys() <= node["inputs"].keys()
        for widget, value in node["inputs"].items():
            kind, *rest = known[widget]
            choices = kind if isinstance(kind, list) else (rest[0] if rest else {}).get("options")
            if choices is not None and not widget.endswith("_name"):
                assert value in choices, (node["class_type"], widget)


@pytest.mark.parametrize("name", TINY)
def test_it_makes_the_promised_film(studio: Studio, comfy, name: str):
    workflow = shortened(name, seed=100 + TINY.index(name))
    page = read_page(name)
    events = []
    result = studio.run(workflow, on_event=events.append, extra_data={"extra_pnginfo": {"workflow": page}})
    path = film_path(comfy.server, result)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (64, 64, 16)
        assert sum(1 for _ in container.decode(stream)) == FRAMES[name]
        tags = {key.lower(): value for key, value in container.metadata.items()}
    assert json.loads(tags["workflow"]) == page
    assert json.loads(tags["prompt"]) == workflow
    assert_starts_with_its_index(path)
    (sampler,) = (node_id for node_id, node in workflow.items() if node["class_type"] == "SFPPSampler")
    progress = [event for event in events if isinstance(event, Progress) and event.node_id == sampler]
    assert {event.maximum for event in progress} == {2} and progress[-1].value == 2, "two chunks"
    assert any(isinstance(event, Preview) for event in events)
    assert not list(path.parent.glob(".*")), "an unfinished file was left behind"


def test_the_film_is_rated_and_drawn(studio: Studio, comfy):
    """Score, explanation and plot of the workflow's own film; the offline judge needs nothing."""
    workflow = dict(shortened("tiny_film_with_stability_report", seed=400))
    workflow["9"] = {"class_type": "PreviewAny", "inputs": {"source": ["6", 0]}}
    workflow["10"] = {"class_type": "PreviewAny", "inputs": {"source": ["7", 1]}}
    result = studio.run(workflow)
    (score,), (explanation,), (report,) = (result.outputs[node]["text"] for node in ("9", "8", "10"))
    report = json.loads(report)
    assert 0 <= float(score) <= 100 and report["score"] == float(score)
    assert report["segments"][0]["explanation"] in explanation and result.outputs["6"]["text"] == [explanation]
    assert report["prompt"] == workflow["2"]["inputs"]["value"] and report["judge"].startswith("offline")
    assert len(report["curves"]["time"]) == 21
    (plot,) = (file for file in result.files() if file.node_id == "7")
    with Image.open(BytesIO(comfy.client.read(plot))) as image:
        assert image.width == 1024 and image.height > 500


def film_path(server: ComfyServer, result: RunResult) -> Path:
    (film,) = (file for file in result.files() if file.filename.endswith(".mp4"))
    return server.output_directory / film.subfolder / film.filename


def assert_starts_with_its_index(path: Path) -> None:
    """The page restores a workflow only from the first 64 MiB of a file, so the index must come before the pictures."""
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_the_film_is_what_stock_nodes_decode(studio: Studio, comfy):
    """Streamed by the core and compressed without loss, against ComfyUI's own VAE in one piece."""
    workflow = dict(with_inputs(shortened("tiny_text_to_long_video", seed=200), "SFPPDecodeToVideo", crf=0))
    workflow["8"] = {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["1", 2]}}
    workflow["9"] = {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "stock"}}
    result = studio.run(workflow)
    stock = [file for file in result.files() if file.node_id == "9"]
    with av.open(str(film_path(comfy.server, result))) as container:
        ours = [frame.to_ndarray(format="rgb24").astype(float) for frame in container.decode(video=0)]
    assert len(stock) == len(ours) == 21
    for file, frame in zip(stock, ours, strict=True):
        with av.open(str(comfy.server.output_directory / file.subfolder / file.filename)) as picture:
            (still,) = (f.to_ndarray(format="rgb24").astype(float) for f in picture.decode(video=0))
        # The video stores colours at half resolution, and what RGB cannot show is cut off in another place.
        assert abs(reduce(frame - still, "(h 2) (w 2) c -> h w c", "mean")).mean() < 4


def test_other_flags_of_comfyui(tmp_path: Path):
    """No metadata when told so; another attention kernel and no cache between nodes change nothing else."""
    flags = ("--disable-metadata", "--use-split-cross-attention", "--cache-none", "--preview-method", "none")
    with ComfyServer(ServerConfig(base_directory=tmp_path, arguments=flags)) as server:
        result = Studio(Comfy(server)).run(shortened("tiny_extend_with_second_prompt", seed=300))
        with av.open(str(film_path(server, result))) as container:
            assert sum(1 for _ in container.decode(video=0)) == FRAMES["tiny_extend_with_second_prompt"]
            assert not {"prompt", "workflow"} & {key.lower() for key in container.metadata}


def test_an_interrupted_decoding_leaves_no_file(studio: Studio, comfy):
    graph = Graph()
    _, _, vae = graph.tiny()
    film = [graph.add("EmptyHunyuanLatentVideo", width=64, height=64, length=1601, batch_size=1), 0]
    graph.add("SFPPDecodeToVideo", latent=film, vae=vae, filename_prefix="half/film", crf=18)
    seen_unfinished = []

    def interrupt(event: object) -> None:
        if isinstance(event, Progress):
            seen_unfinished.extend((comfy.server.output_directory / "half").iterdir())
            comfy.client.interrupt()

    with pytest.raises(RunInterrupted):
        studio.run(graph, on_event=interrupt)
    assert seen_unfinished, "it was interrupted before it had begun to write, so this test shows nothing"
    assert not list((comfy.server.output_directory / "half").iterdir())
