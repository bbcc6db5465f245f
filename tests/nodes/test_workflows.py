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

from sfpp_client import Preview, Progress, RunInterrupted, RunResult
from sfpp_client.workflow import with_inputs
from tests.nodes.conftest import Comfy
from tests.nodes.graphs import Graph, Studio, equal
from tests.nodes.shipped import FRAMES, NAMES, NUM_CHUNKS, PAGE, TINY, read_api, read_page, shortened
from tools.comfy_server import ComfyServer, ServerConfig
from tools.workflows.__main__ import files

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
NOTES = {"Note", "MarkdownNote"}
"""Nodes that only the page knows."""
ANY_TYPE = "*"
MUTED = 2


@pytest.fixture
def studio(comfy) -> Studio:
    return Studio(comfy)


def api_of_page(page: Mapping[str, Any], object_info: Mapping[str, Any]) -> dict[str, Any]:
    """What ComfyUI's page would queue for a workflow in its own format (version 0.4)."""
    links = {link[0]: link for link in page["links"]}
    nodes = [node for node in page["nodes"] if node["type"] not in NOTES and node["mode"] != MUTED]
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
    assert TINY == sorted(path.stem for path in PAGE.glob("*.jpg")), "pictures of its own video, where one can be made"


def test_the_files_are_what_their_descriptions_say(comfy):
    """Changed by hand, or a node has changed since: `python -m tools.workflows` writes them again."""
    for path, text in files(comfy.client.object_info()):
        written = json.loads(path.read_text(encoding="utf-8"))
        assert without_loose_outputs(written) == without_loose_outputs(json.loads(text)), path.name


def without_loose_outputs(workflow: dict[str, Any]) -> dict[str, Any]:
    """A page's workflow without outputs that lead nowhere: newer versions of ComfyUI's own nodes have more of them."""
    for node in workflow.get("nodes", ()):
        node["outputs"] = [output for output in node["outputs"] if output["links"]]
    return workflow


@pytest.mark.parametrize("name", NAMES)
def test_page_and_api_say_the_same(comfy, name: str):
    assert api_of_page(read_page(name), comfy.client.object_info()) == read_api(name)


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
    for node in read_api(name).values():
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
def test_it_makes_the_promised_video(studio: Studio, comfy, name: str):
    workflow = shortened(name, seed=100 + TINY.index(name))
    page = read_page(name)
    events = []
    result = studio.run(workflow, on_event=events.append, extra_data={"extra_pnginfo": {"workflow": page}})
    paths = video_paths(comfy.server, result)
    for path, num_frames in zip(paths, FRAMES[name], strict=True):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert (stream.width, stream.height, stream.average_rate) == (64, 64, 16)
            assert sum(1 for _ in container.decode(stream)) == num_frames
            tags = {key.lower(): value for key, value in container.metadata.items()}
        assert json.loads(tags["workflow"]) == page
        assert json.loads(tags["prompt"]) == workflow
        assert_starts_with_its_index(path)
        assert not list(path.parent.glob(".*")), "an unfinished file was left behind"
    for node_id, node in workflow.items():
        if num_chunks := NUM_CHUNKS.get(node["class_type"]):
            progress = [event for event in events if isinstance(event, Progress) and event.node_id == node_id]
            assert {event.maximum for event in progress} == {num_chunks} and progress[-1].value == num_chunks
    assert any(isinstance(event, Preview) for event in events)


def test_three_endings_share_their_beginning(studio: Studio):
    graph = Graph()
    graph.workflow.update(shortened("tiny_branch_three_endings", seed=500))
    keepers = [f"keep {node_id}" for node_id in ("11", "21", "31")]
    for keeper in keepers:
        samples = [keeper.removeprefix("keep "), 1]
        graph.workflow[keeper] = {
            "class_type": "SaveLatent",
            "inputs": {"samples": samples, "filename_prefix": "latents/test"},
        }
    result = studio.run(graph)
    first, *others = (studio.latent(result, keeper) for keeper in keepers)
    made_before = 6
    for other in others:
        assert equal(first[:, :, :made_before], other[:, :, :made_before])
        assert not equal(first[:, :, made_before:], other[:, :, made_before:])


def test_the_video_is_rated_and_drawn(studio: Studio, comfy):
    """Score, explanation and plot of the workflow's own video; the offline judge needs nothing."""
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


def video_paths(server: ComfyServer, result: RunResult) -> list[Path]:
    videos = (file for file in result.files() if file.filename.endswith(".mp4"))
    return [server.output_directory / video.subfolder / video.filename for video in videos]


def video_path(server: ComfyServer, result: RunResult) -> Path:
    (path,) = video_paths(server, result)
    return path


def assert_starts_with_its_index(path: Path) -> None:
    """The page restores a workflow only from the first 64 MiB of a file, so the index must come before the pictures."""
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_the_video_is_what_stock_nodes_decode(studio: Studio, comfy):
    """Streamed by the core and compressed without loss, against ComfyUI's own VAE in one piece."""
    workflow = dict(with_inputs(shortened("tiny_text_to_long_video", seed=200), "SFPPDecodeToVideo", crf=0))
    workflow["8"] = {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["1", 2]}}
    workflow["9"] = {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "stock"}}
    result = studio.run(workflow)
    stock = [file for file in result.files() if file.node_id == "9"]
    with av.open(str(video_path(comfy.server, result))) as container:
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
        with av.open(str(video_path(server, result))) as container:
            assert [sum(1 for _ in container.decode(video=0))] == FRAMES["tiny_extend_with_second_prompt"]
            assert not {"prompt", "workflow"} & {key.lower() for key in container.metadata}


def test_an_interrupted_decoding_leaves_no_file(studio: Studio, comfy):
    graph = Graph()
    _, _, vae = graph.tiny()
    video = [graph.add("EmptyHunyuanLatentVideo", width=64, height=64, length=1601, batch_size=1), 0]
    graph.add("SFPPDecodeToVideo", latent=video, vae=vae, filename_prefix="half/film", crf=18)
    seen_unfinished = []

    def interrupt(event: object) -> None:
        if isinstance(event, Progress):
            seen_unfinished.extend((comfy.server.output_directory / "half").iterdir())
            comfy.client.interrupt()

    with pytest.raises(RunInterrupted):
        studio.run(graph, on_event=interrupt)
    assert seen_unfinished, "it was interrupted before it had begun to write, so this test shows nothing"
    assert not list((comfy.server.output_directory / "half").iterdir())
