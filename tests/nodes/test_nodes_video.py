"""What SFPP Decode To Video makes in a real ComfyUI: codecs, rates, sound, stills, and videos too large for memory."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import psutil
import pytest
from PIL import Image

from sfpp_client import NodeFailed, Progress, RunResult, ServerUnreachable
from tests.helpers.memory import STEADY_MALLOC
from tests.nodes.conftest import Comfy
from tests.nodes.graphs import Graph, Link, Studio
from tools.comfy_server import ComfyServer, ServerConfig


@pytest.fixture
def studio(comfy) -> Studio:
    return Studio(comfy)


def empty_video(graph: Graph, *, frames: int, width: int = 64, height: int = 64) -> Link:
    return [graph.add("EmptyHunyuanLatentVideo", width=width, height=height, length=frames, batch_size=1), 0]


def decoded(graph: Graph, prefix: str, *, frames: int = 33, **inputs: object) -> str:
    """Add a video of no content, written with `inputs`; the node's id."""
    video = empty_video(graph, frames=frames)
    return graph.add(
        "SFPPDecodeToVideo", latent=video, vae=graph.tiny()[2], filename_prefix=prefix, **{"crf": 18} | inputs
    )


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_video_in_h265_with_sound_at_another_rate(studio: Studio, comfy):
    graph = Graph()
    sound = [graph.add("EmptyAudio", duration=1.0, sample_rate=44100, channels=2), 0]
    decoded(graph, "formats/film", codec="H.265", fps=24, audio=sound)
    studio.run(graph, extra_data={"extra_pnginfo": {"workflow": {"title": "a video"}}})
    folder = comfy.server.output_directory / "formats"
    assert files_in(folder) == ["film_00001_.mp4", "film_00001_.png"]
    with av.open(str(folder / "film_00001_.mp4")) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.codec_context.codec_tag) == ("hevc", "hvc1")
        assert video.average_rate == 24 and audio.codec_context.name == "aac"
        assert json.loads(container.metadata["workflow"]) == {"title": "a video"}
        assert abs(audio.duration * audio.time_base - Fraction(50, 24)) < 0.01
        assert sum(1 for _ in container.decode(video)) == 50  # 33 at 16 a second, rounded up
    with Image.open(folder / "film_00001_.png") as picture:
        assert json.loads(picture.text["workflow"]) == {"title": "a video"} and "prompt" in picture.text


@pytest.mark.parametrize("codec", ("H.264", "H.265"))
def test_stock_nodes_read_the_video_and_its_sound(studio: Studio, comfy, codec: str):
    graph = Graph()
    sound = [graph.add("EmptyAudio", duration=5.0, sample_rate=48000, channels=1), 0]
    video = decoded(graph, "stock/film", codec=codec, audio=sound)
    parts = graph.add("GetVideoComponents", video=[video, 0])
    again = [graph.add("CreateVideo", images=[parts, 0], audio=[parts, 1], fps=[parts, 2]), 0]
    graph.add("SaveVideo", video=again, filename_prefix=f"stock/decoded_{codec[-3:]}", format="mp4", codec="h264")
    graph.add("SaveVideo", video=[video, 0], filename_prefix=f"stock/copied_{codec[-3:]}", format="auto", codec="auto")
    studio.run(graph)
    for kind in ("decoded", "copied"):
        (path,) = (comfy.server.output_directory / "stock").glob(f"{kind}_{codec[-3:]}_*.mp4")
        with av.open(str(path)) as container:
            audio = container.streams.audio[0]
            assert abs(audio.duration * audio.time_base - Fraction(33, 16)) < 0.05, kind
            assert sum(1 for _ in container.decode(video=0)) == 33, kind


def test_nodes_of_older_workflows_write_what_they_always_did(studio: Studio, comfy):
    """Workflows in API format from before there was a choice have none of the new inputs."""
    graph = Graph()
    decoded(graph, "older/film", frames=9)
    studio.run(graph)
    with av.open(str(comfy.server.output_directory / "older" / "film_00001_.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "h264" and not container.streams.audio
        assert container.streams.video[0].average_rate == 16


def test_no_thumbnail_where_none_is_wanted(studio: Studio, comfy):
    graph = Graph()
    decoded(graph, "alone/film", frames=9, thumbnail=False)
    studio.run(graph)
    assert files_in(comfy.server.output_directory / "alone") == ["film_00001_.mp4"]


@pytest.mark.endurance
@pytest.mark.skipif(sys.platform == "win32", reason="a kill without a word is POSIX's")
def test_a_killed_server_leaves_a_video_to_watch_until_the_next(tmp_path: Path):
    with ComfyServer(ServerConfig(base_directory=tmp_path)) as server:
        comfy, folder = Comfy(server), server.output_directory / "killed"
        graph = Graph()
        decoded(graph, "killed/film", frames=16001)

        def kill(event: object) -> None:
            if isinstance(event, Progress) and event.value >= 60:
                os.kill(process_of(server).pid, signal.SIGKILL)

        with pytest.raises(ServerUnreachable):
            Studio(comfy).run(graph, on_event=kill)
        (left,) = folder.glob("unfinished.film_00001_.*.mp4")
        with av.open(str(left)) as container:
            assert sum(1 for _ in container.decode(video=0)) > 32
        comfy.restart()
        graph = Graph()
        decoded(graph, "killed/film", frames=9)
        Studio(comfy).run(graph)
        assert files_in(folder) == ["film_00001_.mp4", "film_00001_.png"]


@contextmanager
def memory_limit(process: psutil.Process, num_bytes: int) -> Iterator[None]:
    """No more than `num_bytes` above what the process takes now: allocations beyond fail."""
    before = process.rlimit(psutil.RLIMIT_AS)
    process.rlimit(psutil.RLIMIT_AS, (process.memory_info().vms + num_bytes, before[1]))
    try:
        yield
    finally:
        process.rlimit(psutil.RLIMIT_AS, before)


def peak_above_rest(process: psutil.Process, work: Callable[[], object]) -> int:
    """Bytes that the process takes for some work, given back after it."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the peak so far is forgotten
    work()
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak, rest = (int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) for name in ("VmHWM", "VmRSS"))
    return 1024 * (peak - rest)


@pytest.mark.endurance
@pytest.mark.skipif(not hasattr(psutil, "RLIMIT_AS"), reason="only Linux limits a running process's memory")
def test_a_video_too_large_for_memory_is_made_in_tiles_or_refused_with_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The limit is the operating system's: an allocation of the server's process fails."""
    for name, value in STEADY_MALLOC.items():
        monkeypatch.setenv(name, value)

    def large(prefix: str) -> RunResult:
        graph = Graph()
        video, vae = empty_video(graph, frames=9, width=512, height=512), graph.tiny()[2]
        graph.add("SFPPDecodeToVideo", latent=video, vae=vae, filename_prefix=prefix, crf=18, thumbnail=False)
        return Studio(Comfy(server)).run(graph)

    with ComfyServer(ServerConfig(base_directory=tmp_path)) as server:
        process = process_of(server)
        large("warm")
        need = peak_above_rest(process, lambda: large("whole"))
        with memory_limit(process, round(0.92 * need)):
            tiled = large("tiles")
        with memory_limit(process, round(0.3 * need)), pytest.raises(NodeFailed) as refused:
            large("never")
        log = server.log_path.read_text(encoding="utf-8", errors="replace")
        assert re.search(r"Not enough memory to decode 512x512 pixels whole: that takes about [\d.]+ GB, and", log)
        (text,) = next(output["text"] for output in tiled.outputs.values() if output.get("text"))
        assert "The video is begun again in 2 tiles of 288x512" in text
        assert "Smaller tiles would not help" in str(refused.value) and "smaller width or height" in str(refused.value)
        assert files_in(server.output_directory) == ["tiles_00001_.mp4", "warm_00001_.mp4", "whole_00001_.mp4"]
        with av.open(str(server.output_directory / "tiles_00001_.mp4")) as container:
            assert sum(1 for _ in container.decode(video=0)) == 9


def process_of(server: ComfyServer) -> psutil.Process:
    """The server's process, by the port that it listens to."""
    (found,) = (
        child
        for child in psutil.Process().children(recursive=True)
        if str(server.port) in child.cmdline() and "main.py" in " ".join(child.cmdline())
    )
    return found
