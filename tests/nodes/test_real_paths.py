"""Folders that are links: what ComfyUI's own nodes do with them, ours do, and say so before anything is sampled.

From 0.30 on ComfyUI refuses links that lead out of its folders; before, they work. Its own Save Latent tells.
The output folder of this server is a link itself, and so is that of the finished chunks.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sfpp_client import NodeFailed, Progress, WorkflowRefused
from tests.nodes.conftest import Comfy
from tests.nodes.graphs import Graph, Link, Studio
from tools.comfy_server import ComfyServer, ServerConfig

LOADER = """
import os
import folder_paths
from comfy_api.latest import InputImpl

class Resolved:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"name": ("STRING",)}})
    RETURN_TYPES = ("VIDEO",)
    FUNCTION = "load"

    def load(self, name):
        path = os.path.join(folder_paths.get_output_directory(), name)
        return (InputImpl.VideoFromFile(os.path.realpath(path)),)

NODE_CLASS_MAPPINGS = {"ResolvedVideo": Resolved}
"""
"""Another pack's loader, one that resolves links."""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the links lead."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def comfy(elsewhere: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comfy]:
    base = tmp_path_factory.mktemp("linked_comfyui")
    for name in ("output", "spool", "linked"):
        (elsewhere / name).mkdir()
    output = base / "output"
    output.symlink_to(elsewhere / "output", target_is_directory=True)
    (output / "sfpp_spool").symlink_to(elsewhere / "spool", target_is_directory=True)
    (output / "linked").symlink_to(elsewhere / "linked", target_is_directory=True)
    (output / "real").mkdir()
    (output / "within").symlink_to("real", target_is_directory=True)
    (output / "real" / "round").symlink_to("..", target_is_directory=True)
    (base / "custom_nodes").mkdir()
    (base / "custom_nodes" / "resolved_video.py").write_text(LOADER)
    with ComfyServer(ServerConfig(base_directory=base)) as server:
        yield Comfy(server)


@pytest.fixture
def studio(comfy: Comfy) -> Studio:
    return Studio(comfy)


@pytest.fixture(scope="module")
def links_may_lead_out(comfy: Comfy) -> bool:
    """Whether this ComfyUI saves behind a link that leads out of its output folder."""
    graph = Graph()
    latent = [graph.add("EmptyLatentImage", width=64, height=64, batch_size=1), 0]
    graph.add("SaveLatent", samples=latent, filename_prefix="linked/stock")
    try:
        Studio(comfy).run(graph)
    except NodeFailed as refusal:
        assert "outside the output folder" in str(refusal)
        return False
    return True


def video_saved_as(prefix: str, *, seed: int) -> Graph:
    """A video that is decoded, and whose state is saved, under a prefix."""
    graph = Graph()
    model, clip, vae = graph.tiny()
    video, state = graph.video(model, graph.text(clip), seed=seed)
    graph.add("SFPPDecodeToVideo", latent=video, vae=vae, filename_prefix=prefix, crf=18)
    graph.add("SFPPSaveState", state=state, filename_prefix=f"{prefix}_state")
    return graph


def assert_all_is_found_again(studio: Studio, comfy: Comfy, prefix: str, tmp_path: Path, *, seed: int) -> None:
    """Save a video under a prefix: clients get its file, its state can be loaded, and it can be rated."""
    graph = video_saved_as(prefix, seed=seed)
    result = studio.run(graph)
    files = {file.filename: file for file in result.files()}
    for name in ("_00001_.mp4", "_state_00001_.sfpp.safetensors"):
        file = files[Path(prefix).name + name]
        assert comfy.client.download(file, tmp_path).stat().st_size > 1000
    more = Graph()
    saved = more.add("SFPPLoadState", state_file=f"{prefix}_state_00001_.sfpp.safetensors [output]")
    more.keep(more.more(more.tiny()[0], [saved, 0])[0])
    studio.run(more)
    rate(studio, graph, [find(graph, "SFPPDecodeToVideo"), 0])


def rate(studio: Studio, graph: Graph, video: Link) -> None:
    settings = {"prompt": "", "judge": "offline", "segment_seconds": 0.0, "model": "", "fps": 16.0}
    graph.add("SFPPVisualStability", video=video, **settings)
    studio.run(graph)


def find(graph: Graph, class_type: str) -> str:
    return next(node_id for node_id, node in graph.workflow.items() if node["class_type"] == class_type)


def test_a_link_that_stays_in_the_output_folder_is_a_folder_like_any_other(
    studio: Studio, comfy: Comfy, tmp_path: Path
):
    assert_all_is_found_again(studio, comfy, "within/film", tmp_path, seed=1)
    assert (comfy.server.output_directory / "real" / "film_00001_.mp4").is_file()
    graph = Graph()
    rate(studio, graph, [graph.add("ResolvedVideo", name="within/film_00001_.mp4"), 0])


def test_a_link_that_leads_out_works_where_comfyui_takes_it_and_is_refused_before_sampling_elsewhere(
    studio: Studio, comfy: Comfy, elsewhere: Path, links_may_lead_out: bool, tmp_path: Path
):
    if links_may_lead_out:
        assert_all_is_found_again(studio, comfy, "linked/deep/film", tmp_path, seed=2)
        assert (elsewhere / "linked" / "deep" / "film_00001_.mp4").is_file()
        return
    for class_type in ("SFPPDecodeToVideo", "SFPPSaveState"):
        graph = video_saved_as("linked/film", seed=2)
        graph.workflow = {
            node_id: node
            for node_id, node in graph.workflow.items()
            if "filename_prefix" not in node["inputs"] or node["class_type"] == class_type
        }
        events: list[object] = []
        with pytest.raises(WorkflowRefused) as refused:
            studio.run(graph, on_event=events.append)
        assert not any(isinstance(event, Progress) for event in events)
        said = str(refused.value)
        assert "filename_prefix is 'linked/video" in said and "a link leads from there out of the output folder" in said
        assert "Type the name of a folder that is no such link" in said
    assert not list((elsewhere / "linked").rglob("*film*"))


@pytest.mark.parametrize("prefix", ("%year%/film", "here_%width%x%height%/film"))
def test_a_link_whose_name_comes_from_a_placeholder(
    studio: Studio, comfy: Comfy, elsewhere: Path, links_may_lead_out: bool, prefix: str
):
    name = prefix.split("/")[0].replace("%year%", time.strftime("%Y"))
    name = name.replace("%width%", "64").replace("%height%", "64")
    link = comfy.server.output_directory / name
    link.symlink_to(elsewhere / "linked", target_is_directory=True)
    graph = video_saved_as(prefix, seed=3)
    del graph.workflow[find(graph, "SFPPSaveState")]
    if links_may_lead_out:
        studio.run(graph)
        return
    # What the size will be is known only when the video is there.
    kind = WorkflowRefused if "year" in prefix else NodeFailed
    with pytest.raises(kind, match="a link leads from there out of the output folder"):
        studio.run(graph)


def test_chunks_are_kept_and_found_behind_a_link(studio: Studio, comfy: Comfy, elsewhere: Path):
    graph = video_saved_as("kept/film", seed=4)
    studio.run(graph)
    assert list((elsewhere / "spool").rglob("seed4_*/*.safetensors"))
    shutil.rmtree(comfy.server.output_directory / "kept")
    comfy.restart()
    result = Studio(comfy).run(graph)
    sampler = find(graph, "SFPPSampler")
    assert "1 of 1 chunks were reused from disk." in result.outputs[sampler]["text"][0]
