"""Hours of work survive whatever ends them: ComfyUI servers of their own, really interrupted and really killed."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sfpp_client import ComfyClient, NodeFailed, Progress, RunInterrupted, RunResult
from sfpp_client.errors import ComfyError
from sfpp_core.tiny.family import weights_path
from tests.helpers.small_disk import small_disk
from tests.nodes.conftest import Comfy
from tests.nodes.graphs import OTHER_PROMPT, PROMPT, TIMEOUT_S, Graph, Studio, equal, interrupt_after
from tools.comfy_server import ComfyServer, ServerConfig

SPOOL = "sfpp_spool"
MINUTE = 60.0
CHUNKS_OF_A_MINUTE = 81

NODES = """
import torch
from comfy.ldm.modules.attention import optimized_attention


def scaled(scale, kept=None):
    def attention(func, q, *args, **kwargs):
        return func(q * scale, *args, **kwargs)

    return attention


class Attention:
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "change", "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "scale": ("FLOAT", {"min": 0.0, "max": 10.0, "step": 0.01})}}

    def change(self, model, scale):
        model = model.clone()
        model.model_options["transformer_options"]["optimized_attention_override"] = scaled(scale)
        return (model,)


class CompileBlocks:
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "change", "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def change(self, model):
        model = model.clone()
        for index, block in enumerate(model.get_model_object("diffusion_model").blocks):
            model.add_object_patch(f"diffusion_model.blocks.{index}", torch.compile(block, backend="eager"))
        return (model,)


NODE_CLASS_MAPPINGS = {"TestAttention": Attention, "TestCompileBlocks": CompileBlocks}
"""
"""What other packs do to a MODEL: kernels that one factory makes, and compiled blocks."""


@pytest.fixture(scope="module")
def keeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comfy]:
    """A server that keeps finished chunks, as one does unless it is told otherwise."""
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("SFPP_SPOOL_GB", raising=False)
        base = tmp_path_factory.mktemp("keeping")
        (base / "custom_nodes").mkdir()
        (base / "custom_nodes" / "test_nodes.py").write_text(NODES)
        with ComfyServer(ServerConfig(base_directory=base)) as server:
            yield Comfy(server)


@pytest.fixture
def studio(keeping: Comfy) -> Studio:
    return Studio(keeping)


def chunks(server: ComfyServer) -> list[Path]:
    """Finished chunks on disk, of all videos."""
    return sorted((server.output_directory / SPOOL).glob("*/0*.safetensors"))


def video_graph(seconds: float, *, seed: int, **inputs: Any) -> tuple[Graph, str, str]:
    """A video that is sampled, decoded and saved: the graph, its sampler and its decoder."""
    graph = Graph()
    model, clip, vae = graph.tiny()
    video, _ = graph.video(model, graph.text(clip), seconds=seconds, seed=seed, **inputs)
    decode = graph.add("SFPPDecodeToVideo", latent=video, vae=vae, filename_prefix="kept", crf=18)
    return graph, video[0], decode


def mp4_of(server: ComfyServer, result: RunResult) -> bytes:
    (file,) = (file for file in result.files() if file.filename.endswith(".mp4"))
    return (server.output_directory / file.subfolder / file.filename).read_bytes()


def said(server: ComfyServer) -> str:
    return server.log_path.read_text(encoding="utf-8", errors="replace")


def forget(comfy: Comfy) -> None:
    """No finished chunk, and nothing that ComfyUI remembers of nodes."""
    comfy.client.free()
    time.sleep(1.5)  # the server does it before its next prompt, or within a second
    shutil.rmtree(comfy.server.output_directory / SPOOL, ignore_errors=True)


def test_an_interrupted_video_goes_on_where_it_was_and_is_the_same(keeping: Comfy, studio: Studio):
    graph = Graph()
    model, clip, _ = graph.tiny()
    video, _ = graph.video(model, graph.text(clip), seconds=12.0, seed=31)
    kept = graph.keep(video)
    with pytest.raises(RunInterrupted):
        studio.run(graph, on_event=interrupt_after(keeping, video[0], 5.5))
    finished = len(chunks(keeping.server))
    assert finished >= 5
    assert f"{finished} of 17 chunks are finished and kept on disk" in said(keeping.server)
    continued = studio.latent(studio.run(graph), kept)
    assert f"{finished} reused from disk" in said(keeping.server)
    forget(keeping)
    whole = studio.latent(studio.run(graph), kept)
    assert equal(continued, whole)


def test_an_interrupted_video_is_delivered_if_the_artist_asks_and_goes_on_when_queued_again(
    keeping: Comfy, studio: Studio
):
    graph, sampler, _ = video_graph(12.0, seed=32, deliver_on_interrupt=True)
    before = len(chunks(keeping.server))
    partial = studio.run(graph, on_event=_once(interrupt_after(keeping, sampler, 4.5)))
    finished = len(chunks(keeping.server)) - before
    assert 4 <= finished < 17
    short = mp4_of(keeping.server, partial)
    whole = mp4_of(keeping.server, studio.run(graph))
    assert _num_frames(keeping.server, short) == 12 * finished - 3
    assert _num_frames(keeping.server, whole) == 12 * 17 - 3


def _once(on_event: Any) -> Any:
    """An observer that interrupts a single time; what follows an interrupt must not be interrupted too."""
    state = {"over": False}

    def observe(event: object) -> None:
        if not state["over"] and isinstance(event, Progress) and event.maximum == 17 and event.value >= 4.5:
            state["over"] = True
            on_event(event)

    return observe


def _num_frames(server: ComfyServer, content: bytes) -> int:
    import av

    path = server.base_directory / "looked_at.mp4"
    path.write_bytes(content)
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_the_same_weights_in_another_form_make_another_video(keeping: Comfy, studio: Studio):
    """Rounded to eight bits and loaded in float32, they have the same signs, sizes and types as before."""
    forget(keeping)
    folder = keeping.server.models_directory("diffusion_models")
    weights = load_file(weights_path("student"))
    with safe_open(weights_path("student"), "pt") as file:
        description = file.metadata()
    rounded = {name: weight.to(torch.float8_e4m3fn).to(weight.dtype) for name, weight in weights.items()}
    videos = []
    for name, stored in (("exact.safetensors", weights), ("rounded.safetensors", rounded)):
        save_file(stored, folder / name, description)
        graph = Graph()
        _, clip, _ = graph.tiny()
        settings = {"model_name": name, "weight_dtype": "default", "prefer_ema": True, "preset": "auto"}
        model = [graph.add("SFPPLoadModel", **settings), 0]
        videos += studio.latents(graph, graph.video(model, graph.text(clip), seconds=1.0, seed=311)[0])
    assert not equal(*videos)
    assert len({path.parent for path in chunks(keeping.server)}) == 2


def test_kernels_that_one_factory_made_are_told_apart(keeping: Comfy, studio: Studio):
    forget(keeping)
    videos = []
    for scale in (1.0, 0.5, 1.0):
        graph = Graph()
        model, clip, _ = graph.tiny()
        model = [graph.add("TestAttention", model=model, scale=scale), 0]
        videos += studio.latents(graph, graph.video(model, graph.text(clip), seconds=1.0, seed=313)[0])
        keeping.client.free()
    first, other, again = videos
    assert not equal(first, other) and equal(first, again)
    assert len({path.parent for path in chunks(keeping.server)}) == 2, "a kernel that was used before was not found"


def test_a_model_with_compiled_blocks_goes_on(keeping: Comfy, studio: Studio):
    """Once it was loaded with them, and until another model is, its weights have other names."""
    forget(keeping)
    videos = []
    for is_compiled in (False, True):
        graph = Graph()
        model, clip, _ = graph.tiny()
        if is_compiled:
            model = [graph.add("TestCompileBlocks", model=model), 0]
        _, whole, _ = graph.more(model, graph.video(model, graph.text(clip), seed=314)[1])
        videos += studio.latents(graph, whole)
        forget(keeping)
    assert equal(*videos)


def test_a_number_that_another_server_is_writing_to_is_left_to_it(keeping: Comfy, studio: Studio):
    """It has no file of that name yet, only a hold on it."""
    graph, _, decode = video_graph(0.5, seed=312)
    graph.workflow[decode]["inputs"]["filename_prefix"] = "shared/film"
    folder = keeping.server.output_directory / "shared"
    folder.mkdir()
    with FileLock(folder / ".film_00001_.mp4.sfpp-number"):
        result = studio.run(graph)
    assert [file.filename for file in result.files()] == ["film_00002_.mp4"]
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".sfpp-number") == [
        "film_00002_.mp4",
        "film_00002_.png",
    ]


def test_a_node_that_fails_further_on_costs_no_sampling(keeping: Comfy, studio: Studio):
    graph, sampler, decode = video_graph(3.0, seed=33)
    wrong = Graph()
    wrong.workflow = {name: dict(node, inputs=dict(node["inputs"])) for name, node in graph.workflow.items()}
    wrong.workflow["9"] = {"class_type": "VAELoader", "inputs": {"vae_name": "pixel_space"}}
    wrong.workflow[decode]["inputs"]["vae"] = ["9", 0]
    with pytest.raises((NodeFailed, ComfyError)):
        studio.run(wrong)
    keeping.restart()
    events: list[object] = []
    Studio(keeping).run(graph, on_event=events.append)
    assert "5 reused from disk" in said(keeping.server)


def test_a_longer_video_and_a_later_change_of_prompt_find_what_is_there(keeping: Comfy, studio: Studio):
    def scheduled(seconds: float, lines: str) -> Graph:
        graph = Graph()
        model, clip, _ = graph.tiny()
        schedule = [graph.add("SFPPPromptSchedule", clip=clip, lines=lines, crossfade=0.0, recache=True), 0]
        graph.keep(graph.video(model, schedule, seconds=seconds, seed=34)[0])
        return graph

    lines = "0:00 {}\n0:0{} {}".format
    studio.run(scheduled(6.0, lines(PROMPT, 3, OTHER_PROMPT)))
    for graph, found in (
        (scheduled(9.0, lines(PROMPT, 3, OTHER_PROMPT)), "9 reused from disk"),
        (scheduled(6.0, lines(PROMPT, 5, OTHER_PROMPT)), "4 reused from disk"),
    ):
        start = len(said(keeping.server))
        studio.run(graph)
        assert found in said(keeping.server)[start:]


@pytest.mark.endurance
@pytest.mark.timeout(2400)
def test_twenty_kills_cost_nothing_but_the_chunk_at_work(tmp_path: Path):
    """Kill -9 at random moments of a minute of video: eight while it is sampled and written down, eight while it is
    decoded, four while its file is finished.
    """
    graph, sampler, decode = video_graph(MINUTE, seed=35)
    with ComfyServer(ServerConfig(base_directory=tmp_path / "whole")) as server:
        whole = mp4_of(server, ComfyClient(server.url).run(graph.workflow, timeout_s=TIMEOUT_S))

    moments = random.Random(7)
    plan = [
        *[(sampler, moments.uniform(0.0, 0.12)) for _ in range(8)],
        *[(decode, moments.uniform(0.0, 0.99)) for _ in range(8)],
        *[(decode, 1.0)] * 4,
    ]
    server = ComfyServer(ServerConfig(base_directory=tmp_path / "killed"))
    kept = 0
    for node_id, more in plan:
        server.start()
        share = kept / CHUNKS_OF_A_MINUTE + more if node_id == sampler else more
        _kill_at(server, graph, node_id, share, delay=moments.uniform(0.0, 0.05))
        assert len(chunks(server)) >= kept, "a finished chunk is gone"
        kept = len(chunks(server))
    server.start()
    try:
        result = ComfyClient(server.url).run(graph.workflow, timeout_s=TIMEOUT_S)
        assert f"{CHUNKS_OF_A_MINUTE} reused from disk" in said(server)
        assert mp4_of(server, result) == whole
        left = [path.name for path in server.output_directory.rglob("*") if path.is_file() and "tmp" in path.name]
        assert not left, "a later run would trip over these"
    finally:
        server.stop()


def _kill_at(server: ComfyServer, graph: Graph, node_id: str, share: float, *, delay: float) -> None:
    """Queue the video, and kill the server a moment after the node's bar has passed a share of its way."""
    was_there = []

    def on_event(event: object) -> None:
        if isinstance(event, Progress) and event.node_id == node_id and event.value >= share * event.maximum:
            time.sleep(delay)
            server.kill()
            was_there.append(event.value)

    with pytest.raises(ComfyError):
        ComfyClient(server.url).run(graph.workflow, on_event=on_event, timeout_s=TIMEOUT_S)
    assert was_there, f"the run ended before node {node_id} was at {share:.0%}"


@pytest.mark.parametrize("is_live", [False, True], ids=["sampling alone", "shown while it is made"])
def test_a_full_disk_is_told_and_the_video_goes_on_when_there_is_space(tmp_path: Path, is_live: bool):
    graph = Graph()
    model, clip, vae = graph.tiny()
    shown = {"vae": vae} if is_live else {}
    video, _ = graph.video(model, graph.text(clip), seconds=11.0, seed=36, **shown)
    kept = graph.keep(video)
    base = tmp_path / "base"
    output = base / "output"
    output.mkdir(parents=True)
    with small_disk(output, megabytes=20), ComfyServer(ServerConfig(base_directory=base)) as server:
        ballast = output / "ballast"
        _fill(ballast, leave=60_000)
        with pytest.raises(NodeFailed, match="could not be written .*make space on that disk and queue the same"):
            ComfyClient(server.url).run(graph.workflow, timeout_s=TIMEOUT_S)
        finished = len(chunks(server))
        assert 0 < finished < 15
        assert f"{finished} of 15 chunks are finished and kept on disk" in said(server)
        ballast.unlink()
        result = ComfyClient(server.url).run(graph.workflow, timeout_s=TIMEOUT_S)
        assert f"{finished} reused from disk" in said(server)
        comfy = Comfy(server)
        continued = Studio(comfy).latent(result, kept)
        forget(comfy)
        assert equal(continued, Studio(comfy).latent(Studio(comfy).run(graph), kept))


def _fill(path: Path, *, leave: int) -> None:
    """A file that takes all space of its disk but so many bytes."""
    free = shutil.disk_usage(path.parent).free
    with open(path, "wb") as file:
        file.write(b"\0" * (free - leave))
