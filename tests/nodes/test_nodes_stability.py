"""Videos rated offline through a real ComfyUI: what the nodes give and show, what they accept, and what they refuse."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from sfpp_client import Event, NodeFailed, Progress, RunInterrupted, RunResult, WorkflowRefused
from tests.helpers.videos import write
from tests.nodes.graphs import Graph, Link, Studio

FRAMES = 64
SECONDS = 4.0
WIDGETS = {"prompt": "", "judge": "offline", "segment_seconds": 2.0, "model": "", "fps": 16.0}


@pytest.fixture
def studio(comfy) -> Studio:
    return Studio(comfy)


@pytest.fixture(scope="module")
def videos(comfy) -> dict[str, str]:
    """Makes videos in ComfyUI's input folder, named by what is wrong with them; gives the ways to one beside it."""
    folder = comfy.server.input_directory
    video = drifting_clouds()
    whole = write(folder / "whole.mp4", video, fps=16)
    write(folder / "burnt.mp4", overexposed(video), fps=16)
    (folder / "cut.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size * 3 // 4])
    (folder / "notes.mp4").write_text("no video " * 100)
    private = write(comfy.server.base_directory / "private.mp4", video, fps=16)
    return {"outside": "../private.mp4", "absolute": str(private)}


def drifting_clouds() -> Tensor:
    """A video with nothing to find fault with: colours that drift by in mid tones. T H W C in [0, 1]."""
    seconds, y, x = torch.meshgrid(
        torch.arange(FRAMES) / 16, torch.arange(64) / 64, torch.arange(96) / 96, indexing="ij"
    )
    x = x - 0.16 * seconds
    red = 0.5 + 0.12 * torch.sin(7 * x + 3 * y) + 0.1 * torch.sin(23 * x - 11 * y) + 0.06 * torch.sin(41 * x + 37 * y)
    green = 0.5 + 0.15 * torch.cos(9 * x - 5 * y) + 0.06 * torch.sin(31 * x + 17 * y)
    blue = 0.55 + 0.12 * torch.sin(5 * x + 13 * y) + 0.05 * torch.sin(47 * x)
    return torch.stack((red, green, blue), dim=-1)


def overexposed(video: Tensor) -> Tensor:
    """The second half of a video grows until it is blown out."""
    half = len(video) // 2
    gain = torch.linspace(1, 3, len(video) - half)[:, None, None, None]
    return torch.cat((video[:half], (video[half:] * gain).clamp(max=1)))


def load(graph: Graph, file: str) -> Link:
    return [graph.add("LoadVideo", file=file), 0]


def pictures(graph: Graph, count: int, side: int = 64) -> Link:
    return [graph.add("EmptyImage", width=side, height=side, batch_size=count, color=0x3366CC), 0]


def rate(graph: Graph, video: Link, **changes: Any) -> str:
    """SFPPVisualStability; the node's id."""
    return graph.add("SFPPVisualStability", video=video, **WIDGETS | changes)


def plotted(graph: Graph, rating: str) -> tuple[str, str]:
    """SFPPStabilityReport, and a node that shows its JSON."""
    report = graph.add("SFPPStabilityReport", report=[rating, 2])
    return report, shown(graph, [report, 1])


def shown(graph: Graph, link: Link) -> str:
    return graph.add("PreviewAny", source=link)


def text(result: RunResult, node_id: str) -> str:
    (said,) = result.outputs[node_id]["text"]
    return said


def ticks(events: list[Event], node_id: str) -> int:
    """How often a node moved its bar."""
    return sum(isinstance(event, Progress) and event.node_id == node_id for event in events)


def test_a_video_in_a_file_is_rated_and_drawn(studio: Studio, comfy, videos):
    graph = Graph()
    rating = rate(graph, load(graph, "whole.mp4"), prompt="clouds")
    report, report_json = plotted(graph, rating)
    score, explanation = shown(graph, [rating, 0]), shown(graph, [rating, 1])
    events: list[Event] = []
    result = studio.run(graph, on_event=events.append)
    assert 80 <= float(text(result, score)) <= 100
    assert text(result, rating) == text(result, explanation)
    first, second = text(result, explanation).splitlines()
    assert first.startswith("0:00.0-0:02.0  ") and second.startswith("0:02.0-0:04.0  ")
    said = json.loads(text(result, report_json))
    assert said["score"] == float(text(result, score))
    assert said["video"] == "whole.mp4" and said["prompt"] == "clouds"
    assert [(part["start"], part["end"]) for part in said["segments"]] == [(0.0, 2.0), (2.0, SECONDS)]
    assert said["curves"]["time"][-1] == pytest.approx(SECONDS - 1 / 16)
    assert ticks(events, rating) > 3, "the bar does not move while the video is measured"
    plot = shown_picture(comfy, result, report)
    assert plot.width == 1024 and plot.height > 500
    assert len(plot.convert("RGB").getcolors(1 << 24)) > 20, "the plot is empty"


def shown_picture(comfy, result: RunResult, node_id: str) -> Image.Image:
    (file,) = (file for file in result.files() if file.node_id == node_id)
    assert file.folder == "temp"
    return Image.open(io.BytesIO(comfy.client.read(file)))


def test_the_plot_is_an_image_for_stock_nodes(studio: Studio, comfy, videos):
    graph = Graph()
    report = graph.add("SFPPStabilityReport", report=[rate(graph, load(graph, "whole.mp4")), 2])
    saved = graph.add("SaveImage", images=[report, 0], filename_prefix="plot")
    result = studio.run(graph)
    (file,) = (file for file in result.files() if file.node_id == saved)
    with Image.open(comfy.server.output_directory / file.filename) as image:
        assert image.tobytes() == shown_picture(comfy, result, report).tobytes()


def test_a_damaged_video_rates_lower_and_its_damage_has_a_time(studio: Studio, videos):
    graph = Graph()
    ratings = [rate(graph, load(graph, file)) for file in ("whole.mp4", "burnt.mp4")]
    scores = [shown(graph, [rating, 0]) for rating in ratings]
    _, report_json = plotted(graph, ratings[1])
    result = studio.run(graph)
    whole, burnt = (float(text(result, score)) for score in scores)
    assert burnt < whole - 10
    said = json.loads(text(result, report_json))
    assert said["segments"][0]["rating"] > said["segments"][1]["rating"]
    assert any(event["kind"] == "over-exposure" and 1.5 < event["start"] < 2.5 for event in said["events"])


def test_pictures_count_like_the_same_video_as_a_video(studio: Studio, videos):
    """IMAGE with its fps, VIDEO that a node holds as pictures; and the second one has been measured already."""
    graph = Graph()
    images = [graph.add("GetVideoComponents", video=load(graph, "burnt.mp4")), 0]
    first = rate(graph, images, fps=8.0)
    one_score = shown(graph, [first, 0])
    one = studio.run(graph)
    video = [graph.add("CreateVideo", images=images, fps=8.0), 0]
    second = rate(graph, video)
    other_score = shown(graph, [second, 0])
    events: list[Event] = []
    other = studio.run(graph, on_event=events.append)
    assert text(other, other_score) == text(one, one_score)
    assert text(other, second) == text(one, first) and len(text(one, first).splitlines()) == 4
    assert ticks(events, second) < 3, "the same pictures were measured again"


@pytest.mark.parametrize("count", (1, 2))
def test_a_batch_of_almost_nothing(studio: Studio, count: int):
    graph = Graph()
    rating = rate(graph, pictures(graph, count), segment_seconds=10.0)
    report, report_json = plotted(graph, rating)
    result = studio.run(graph)
    said = json.loads(text(result, report_json))
    assert 0 <= said["score"] <= 100 and len(said["curves"]["time"]) == count
    assert len(said["segments"]) == 1 and said["segments"][0]["end"] == count / 16
    assert any(file.node_id == report for file in result.files())


def test_a_video_as_a_whole_has_one_rating(studio: Studio, videos):
    graph = Graph()
    rating = rate(graph, load(graph, "whole.mp4"), segment_seconds=0.0)
    assert text(studio.run(graph), rating).startswith("0:00.0-0:04.0  ")


def test_interrupt_stops_within_a_frame_and_the_next_video_is_rated(studio: Studio, comfy):
    graph = Graph()
    frames = 2000
    rating = rate(graph, pictures(graph, frames, side=32))
    after_interrupt = []

    def interrupt_at_first_progress(event: object) -> None:
        if isinstance(event, Progress) and event.node_id == rating:
            if not after_interrupt:
                comfy.client.interrupt()
            after_interrupt.append(event.value)

    with pytest.raises(RunInterrupted):
        studio.run(graph, on_event=interrupt_at_first_progress)
    # What was on its way when the interrupt was sent.
    assert len(after_interrupt) < frames / 4
    graph = Graph()
    rating = rate(graph, pictures(graph, 3, side=32))
    assert text(studio.run(graph), rating)


def refusal(studio: Studio, make: Callable[[Graph], object]) -> str:
    graph = Graph()
    make(graph)
    with pytest.raises((NodeFailed, WorkflowRefused)) as refused:
        studio.run(graph)
    return str(refused.value)


@pytest.mark.parametrize(
    "file, sentence",
    (
        ("cut.mp4", "cut.mp4 is (damaged or )?cut short"),
        ("notes.mp4", "notes.mp4 is no video that can be read"),
    ),
)
def test_files_that_are_no_whole_video(studio: Studio, videos, file: str, sentence: str):
    with pytest.raises(NodeFailed, match=sentence):
        graph = Graph()
        rate(graph, load(graph, file))
        studio.run(graph)


@pytest.mark.parametrize("where", ("outside", "absolute"))
def test_files_outside_the_folders(studio: Studio, videos, where: str):
    """ComfyUI's own Load Video opened them: a stranger's workflow could send any video here to a remote judge."""
    said = refusal(studio, lambda graph: rate(graph, load(graph, videos[where])))
    ours = "video is private.mp4, which is not in ComfyUI's input, output or temp folder."
    # Load Video itself refuses them in ComfyUI 0.28 and later.
    assert ours in said or f"Invalid video file: {videos[where]}" in said


def test_what_is_no_video(studio: Studio):
    def latent(graph: Graph) -> None:
        rate(graph, [graph.add("EmptyHunyuanLatentVideo", width=64, height=64, length=9, batch_size=1), 0])

    assert "VIDEO,IMAGE" in refusal(studio, latent)
    assert "video" in refusal(studio, lambda graph: graph.add("SFPPVisualStability", **WIDGETS))
    picture_as_report = refusal(studio, lambda graph: graph.add("SFPPStabilityReport", report=pictures(graph, 1)))
    assert "SFPP_STABILITY" in picture_as_report


@pytest.mark.parametrize(
    "widgets, sentence",
    (
        ({"judge": "nobody"}, "judge is 'nobody'; it must be one of offline, gemini, openai."),
        ({"segment_seconds": -1.0}, "segment_seconds"),
        ({"fps": 0.0}, "fps"),
    ),
)
def test_widgets_are_refused_before_the_queue(studio: Studio, widgets: dict[str, Any], sentence: str):
    graph = Graph()
    rate(graph, pictures(graph, 2), **widgets)
    with pytest.raises(WorkflowRefused) as refused:
        studio.run(graph)
    assert sentence in str(refused.value)
