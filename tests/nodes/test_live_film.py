"""The video while it is made: it grows on disk, plays in the preview, and is not decoded a second time."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from sfpp_client import Preview, Progress, RunInterrupted, RunResult
from tests.nodes.conftest import Comfy
from tests.nodes.graphs import OTHER_PROMPT, Graph, Link, Studio


@pytest.fixture
def studio(comfy: Comfy) -> Studio:
    return Studio(comfy)


def live_files(comfy: Comfy, pattern: str = "*live_*.mp4") -> list[Path]:
    return list((comfy.server.output_directory / "sfpp_spool").glob(f"*/{pattern}"))


def frames_in(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def packets_of(path: Path) -> list[tuple[int, bytes]]:
    with av.open(str(path)) as container:
        return [(packet.pts, bytes(packet)) for packet in container.demux(video=0) if packet.pts is not None]


def saved(comfy: Comfy, result: RunResult, node_id: str) -> Path:
    (file,) = (file for file in result.files() if file.node_id == node_id and file.filename.endswith(".mp4"))
    return comfy.server.output_directory / file.subfolder / file.filename


def video_and_decode(graph: Graph, seconds: float, *, live: bool, **decode: object) -> tuple[Link, str]:
    model, clip, vae = graph.tiny()
    inputs = {"vae": vae} if live else {}
    video, _ = graph.video(model, graph.text(clip), seconds=seconds, seed=71, **inputs)
    settings = {"filename_prefix": "live", "crf": 18, "thumbnail": False} | decode
    return video, graph.add("SFPPDecodeToVideo", latent=video, vae=vae, **settings)


def test_it_can_be_watched_while_it_grows_and_is_not_decoded_again(comfy: Comfy, studio: Studio):
    watched: list[int] = []
    events: list[object] = []
    graph = Graph()
    video, decode = video_and_decode(graph, 20.0, live=True)

    def watch(event: object) -> None:
        events.append(event)
        if isinstance(event, Progress) and event.node_id == video[0] and event.value > 20 and len(watched) < 3:
            (growing,) = live_files(comfy, "unfinished.live_*.mp4")
            watched.append(frames_in(growing))

    result = studio.run(graph, on_event=watch)
    assert watched and min(watched) > 12 * 10, "seconds of video are there while more is made"
    assert not [event for event in events if isinstance(event, Progress) and event.node_id == decode]
    again = Graph()
    _, decode_again = video_and_decode(again, 20.0, live=False)
    whole = saved(comfy, studio.run(again), decode_again)
    assert packets_of(saved(comfy, result, decode)) == packets_of(whole)
    assert frames_in(whole) == 12 * 27 - 3
    shown = [event.image for event in events if isinstance(event, Preview)]
    assert len(shown) > 8
    with av.open(str(whole)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert max(distance_from_video(image, frames) for image in shown) < 4, "the video's own pictures, not latents"


def distance_from_video(image: bytes, frames_THWC: np.ndarray) -> float:
    """Of a preview from the video's nearest frame, mean difference of bytes; ComfyUI enlarges small previews."""
    with Image.open(BytesIO(image)) as picture:
        preview = np.asarray(picture.resize((64, 64), Image.Resampling.BOX))
    return float(np.abs(frames_THWC.astype(np.int16) - preview).mean(axis=(1, 2, 3)).min())


@pytest.mark.parametrize("changes", [{"crf": 30}, {"fps": 24}, {"codec": "H.265"}], ids=str)
def test_other_settings_are_decoded_as_they_say(comfy: Comfy, studio: Studio, changes: dict[str, object]):
    graph = Graph()
    _, decode = video_and_decode(graph, 2.0, live=True, **changes)
    events: list[object] = []
    result = studio.run(graph, on_event=events.append)
    assert [event for event in events if isinstance(event, Progress) and event.node_id == decode]
    assert frames_in(saved(comfy, result, decode)) == (50 if "fps" in changes else 33)


def test_a_latent_that_another_node_changed_is_decoded(comfy: Comfy, studio: Studio):
    graph = Graph()
    model, clip, vae = graph.tiny()
    video, _ = graph.video(model, graph.text(clip), seconds=2.0, seed=72, vae=vae)
    darker = [graph.add("LatentMultiply", samples=video, multiplier=0.5), 0]
    decodes = [
        graph.add("SFPPDecodeToVideo", latent=latent, vae=vae, filename_prefix="changed", crf=18, thumbnail=False)
        for latent in (video, darker)
    ]
    result = studio.run(graph)
    first, second = (packets_of(saved(comfy, result, decode)) for decode in decodes)
    assert first != second


def test_branches_have_a_live_video_each(comfy: Comfy, studio: Studio):
    graph = Graph()
    model, clip, vae = graph.tiny()
    _, state = graph.video(model, graph.text(clip), seed=73)
    branches = [
        graph.more(model, state, vae=vae)[1],
        graph.more(model, state, positive=graph.text(clip, OTHER_PROMPT), vae=vae)[1],
    ]
    decodes = [
        graph.add("SFPPDecodeToVideo", latent=latent, vae=vae, filename_prefix="branch", crf=18, thumbnail=False)
        for latent in branches
    ]
    result = studio.run(graph)
    first, second = (saved(comfy, result, decode) for decode in decodes)
    assert packets_of(first) != packets_of(second)
    assert frames_in(first) == frames_in(second) == 21


def test_why_there_is_no_live_video_stays_under_the_node(comfy: Comfy, studio: Studio):
    graph = Graph()
    model, clip, vae = graph.tiny()
    video, _ = graph.video(model, graph.text(clip), seed=75, vae=vae)
    graph.keep(video)
    studio.run(graph)
    (live,) = live_files(comfy)
    live.unlink()
    live.mkdir()
    comfy.client.free()
    (text,) = studio.run(graph).outputs[video[0]]["text"]
    live.rmdir()
    assert "The video is not shown while it is made, because" in text and "It is made all the same." in text
    assert "1 of 1 chunks were reused from disk." in text


def test_an_interrupted_video_leaves_no_half_file(comfy: Comfy, studio: Studio):
    graph = Graph()
    model, clip, vae = graph.tiny()
    video, _ = graph.video(model, graph.text(clip), seconds=60.0, seed=74, vae=vae)
    graph.keep(video)

    def interrupt(event: object) -> None:
        if isinstance(event, Progress) and event.node_id == video[0] and event.value > 4:
            comfy.client.interrupt()

    with pytest.raises(RunInterrupted):
        studio.run(graph, on_event=interrupt)
    assert not live_files(comfy, "unfinished*")
