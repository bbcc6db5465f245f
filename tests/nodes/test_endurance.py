"""A server that works for days: videos of many clients, hundreds in a row, and one of twenty minutes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import psutil
import pytest
from torch import Tensor

from sfpp_client import ComfyClient
from sfpp_core.tiny.family import weights_path
from tests.nodes.conftest import Comfy
from tests.nodes.graphs import Graph, Studio, equal
from tools.comfy_server import ComfyServer, ServerConfig

pytestmark = pytest.mark.endurance

STUDENT = "tiny_student.safetensors"
MEBIBYTE = 2**20
TWENTY_MINUTES = 1200.0


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comfy]:
    """A server of its own, which keeps no finished chunks: every video is really made."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SFPP_SPOOL_GB", "0")
        # glibc gives freed memory back, so that what grows is what is kept.
        environment.setenv("MALLOC_ARENA_MAX", "2")
        environment.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
        with ComfyServer(ServerConfig(base_directory=tmp_path_factory.mktemp("working"))) as server:
            shutil.copyfile(weights_path("student"), server.models_directory("diffusion_models") / STUDENT)
            yield Comfy(server)


def graph_of(number: int) -> tuple[Graph, str]:
    """A short video: by turns of two models (the second with other settings) and three seeds."""
    graph = Graph()
    model, clip, _ = graph.tiny()
    if number % 2:
        options = {"model_name": STUDENT, "weight_dtype": "default", "prefer_ema": True, "preset": "auto"}
        model = [graph.add("SFPPLoadModel", **options), 0]
    text = graph.text(clip, f"A red ball glides slowly to the {('left', 'right')[number % 2]} in the desert.")
    video, _ = graph.video(model, text, seed=number % 3, shift=-1.0 if number % 2 else 4.0)
    return graph, graph.keep(video)


def made(comfy: Comfy, client: ComfyClient, number: int) -> Tensor:
    graph, kept = graph_of(number)
    return Studio(comfy).latent(client.run(graph.workflow, timeout_s=600), kept)


def rss(server: ComfyServer) -> float:
    return psutil.Process(server.pid).memory_info().rss / MEBIBYTE


def test_two_clients_at_once_get_their_own_videos(working: Comfy):
    alone = {number: made(working, working.client, number) for number in range(6)}
    clients = ComfyClient(working.server.url), ComfyClient(working.server.url)
    with ThreadPoolExecutor(2) as pool:
        jobs = [(number, pool.submit(made, working, clients[number % 2], number)) for number in (*range(6), *range(6))]
        for number, job in jobs:
            assert equal(job.result(), alone[number]), f"video {number}"
    assert len({tuple(video.flatten()[:64].tolist()) for video in alone.values()}) == 6


@pytest.mark.timeout(1500)
def test_two_hundred_videos_in_a_row_leave_nothing_behind(working: Comfy):
    expected = {number: made(working, working.client, number) for number in range(6)}
    for number in range(20):
        made(working, working.client, number % 6)
    before = rss(working.server)
    for number in range(200):
        assert equal(made(working, working.client, number % 6), expected[number % 6]), f"video {number}"
    assert rss(working.server) - before < 50


@pytest.mark.timeout(3000)
def test_a_video_of_twenty_minutes_is_whole_and_memory_does_not_grow_with_it(working: Comfy):
    def video(seconds: float) -> tuple[int, float]:
        """Frames in its file, and the most memory that the server had."""
        graph = Graph()
        model, clip, vae = graph.tiny()
        # As small as it may be: 19,209 frames of it are 56 MiB as bytes, and four times that as numbers.
        latent, _ = graph.video(model, graph.text(clip), seconds=seconds, seed=51, width=32, height=32)
        graph.add("SFPPDecodeToVideo", latent=latent, vae=vae, filename_prefix="long", crf=28)
        most = [0.0]

        def watch(event: object) -> None:
            del event
            most[0] = max(most[0], rss(working.server))

        result = working.client.run(graph.workflow, on_event=watch, timeout_s=2900)
        (file,) = result.files()
        return _frames(working.server.output_directory / file.subfolder / file.filename), most[0]

    video(30.0)
    _, warm = video(60.0)
    frames, most = video(TWENTY_MINUTES)
    assert frames == 19_209, "the first number of whole chunks (12 c - 3 frames) that is 20 minutes or more"
    assert most - warm < 40, f"{most - warm:.0f} MiB more than for a minute"


def _frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))
