"""What SFPP Decode To Video makes in a real ComfyUI: codecs, rates, sound, thumbnails, and films too large for memory."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import psutil
import pytest
from PIL import Image

from scripts.comfy_client import NodeFailed, Progress, ServerLost
from scripts.comfy_server import ComfyServer, ServerConfig
from tests.comfy.conftest import Comfy
from tests.comfy.graphs import Graph, Link, Studio
from tests.core.memory import STEADY_MALLOC


@pytest.fixture
def studio(comfy) -> Studio:
    return Studio(comfy)


def empty_film(graph: Graph, *, frames: int, width: int = 64, height: int = 64) -> Link:
    return [graph.add("EmptyHunyuanLatentVideo", width=width, height=height, length=frames, batch_size=1), 0]


def decoded(graph: Graph, prefix: str, *, frames: int = 33, **inputs: object) -> str:
    """Add a film of no content, written with `inputs`; the node's id."""
    film = empty_film(graph, frames=frames)
    return graph.add(
        "SFPPDecodeToVideo", latent=film, vae=graph.tiny()[2], filename_prefix=prefix, **{"crf": 18} | inputs
    )


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_film_in_h265_with_sound_at_another_rate(studio: Studio, comfy):
    graph = Graph()
    sound = [graph.add("EmptyAudio", duration=1.0, sample_rate=44100, channels=2), 0]
    decoded(graph, "formats/film", codec="H.265", fps=24, audio=sound)
    studio.run(graph, extra_data={"extra_pnginfo": {"workflow": {"title": "a film"}}})
    folder = comfy.server.output_directory / "formats"
    assert files_in(folder) == ["film_00001_.mp4", "film_00001_.png"]
    with av.open(str(folder / "film_00001_.mp4")) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.codec_context.codec_tag) == ("hevc", "hvc1")
        assert video.average_rate == 24 and audio.codec_context.name == "aac"
        assert json.loads(container.metadata["workflow"]) == {"title": "a film"}
        assert abs(audio.duration * audio.time_base - Fraction(50, 24)) < 0.01
        assert sum(1 for _ in container.decode(video)) == 50  # 33 at 16 a second, rounded up
    with Image.open(folder / "film_00001_.png") as picture:
        assert json.loads(picture.text["workflow"]) == {"title": "a film"} and "prompt" in picture.text


@pytest.mark.parametrize("codec", ("H.264", "H.265"))
def test_stock_nodes_read_the_film_and_its_sound(studio: Studio, comfy, codec: str):
    graph = Graph()
    sound = [graph.add("EmptyAudio", duration=5.0, sample_rate=48000, channels=1), 0]
    film = decoded(graph, "stock/film", codec=codec, audio=sound)
    parts = graph.add("GetVideoComponents", video=[film, 0])
    again = [graph.add("CreateVideo", images=[parts, 0], audio=[parts, 1], fps=[parts, 2]), 0]
    graph.add("SaveVideo", video=again, filename_prefix=f"stock/decoded_{codec[-3:]}", format="mp4", codec="h264")
    graph.add("SaveVideo", video=[film, 0], filename_prefix=f"stock/copied_{codec[-3:]}", format="auto", codec="auto")
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


def test_several_recordings_at_once_are_refused(studio: Studio):
    graph = Graph()
    one, other = (
        [graph.add("EmptyAudio", duration=seconds, sample_rate=44100, channels=2), 0] for seconds in (1.0, 1.0)
    )
    both = [graph.add("AudioConcat", audio1=one, audio2=other, direction="after"), 0]
    decoded(graph, "never/film", audio=both)
    studio.run(graph)


@pytest.mark.skipif(sys.platform == "win32", reason="a kill without a word is POSIX's")
def test_a_killed_server_leaves_a_film_to_watch_until_the_next(tmp_path: Path):
    with ComfyServer(ServerConfig(base_directory=tmp_path)) as server:
        comfy, folder = Comfy(server), server.output_directory / "killed"
        graph = Graph()
        decoded(graph, "killed/film", frames=16001)

        def kill(event: object) -> None:
            if isinstance(event, Progress) and event.value >= 60:
                os.kill(process_of(server).pid, signal.SIGKILL)

        with pytest.raises(ServerLost):
            Studio(comfy).run(graph, on_event=kill)
        (left,) = folder.glob("unfinished.film_00001_.*.mp4")
        with av.open(str(left)) as container:
            assert sum(1 for _ in container.decode(video=0)) > 32
        comfy.restart()
        graph = Graph()
        decoded(graph, "killed/film", frames=9)
        Studio(comfy).run(graph)
        assert files_in(folder) == ["film_00001_.mp4", "film_00001_.png"]


def process_of(server: ComfyServer) -> psutil.Process:
    """The server's process, by the port that it listens to."""
    (found,) = (
        child
        for child in psutil.Process().children(recursive=True)
        if str(server.port) in child.cmdline() and "main.py" in " ".join(child.cmdline())
    )
    return found
