"""What a run leaves behind is in the ui output of its nodes: the page shows it, and clients read it in the history."""

from __future__ import annotations

import pytest

from sfpp_client import Message, NodeFailed, Progress, RunInterrupted
from tests.nodes.conftest import Comfy
from tests.nodes.graphs import PROMPT, Graph, Studio


@pytest.fixture
def studio(comfy: Comfy) -> Studio:
    return Studio(comfy)


def executed(events: list[object], node_id: str) -> list[str]:
    """The texts that the page was sent as a node's output."""
    messages = (event.data for event in events if isinstance(event, Message) and event.kind == "executed")
    return [message["output"]["text"][0] for message in messages if message["display_node"] == node_id]


def test_every_node_reports_what_became_of_its_run(studio: Studio):
    graph = Graph()
    model, clip, _ = graph.tiny()
    schedule = graph.add("SFPPPromptSchedule", clip=clip, lines=f"0:00 {PROMPT}", crossfade=0.0, recache=False)
    video, state = graph.video(model, [schedule, 0], seconds=1.3, seed=81)
    more, _, longer = graph.more(model, state, seconds=0.7)
    graph.keep(more)
    save = graph.add("SFPPSaveState", state=longer, filename_prefix="reported")
    outputs = studio.run(graph).outputs
    assert outputs[schedule]["text"] == [f"1 prompt:\n0:00 {PROMPT}"]
    assert outputs[video[0]]["text"] == ["21 frames, 1.31 s, rounded up from 1.3 s"]
    assert outputs[more[0]]["text"] == ["12 frames, 0.75 s, rounded up from 0.7 s"]
    assert outputs[save]["text"] == ["reported_00001_.sfpp.safetensors"]
    assert outputs[save]["said"] == ["Saved in the output folder: reported_00001_.sfpp.safetensors"]


def test_what_is_kept_of_an_interrupted_run_is_sent_as_the_nodes_output(comfy: Comfy, studio: Studio):
    graph = Graph()
    model, clip, _ = graph.tiny()
    video, _ = graph.video(model, graph.text(clip), seconds=60.0, seed=82)
    graph.keep(video)
    events: list[object] = []

    def interrupt(event: object) -> None:
        events.append(event)
        if isinstance(event, Progress) and event.node_id == video[0] and event.value > 2:
            comfy.client.interrupt()

    with pytest.raises(RunInterrupted):
        studio.run(graph, on_event=interrupt)
    (text,) = executed(events, video[0])
    length, kept = text.split("\n")
    assert length.startswith("969 frames, ")
    assert "of 81 chunks are finished and kept on disk: " in kept
    assert kept.endswith(" s of video. Queue the same workflow again to go on from there.")


def test_what_was_said_before_an_error_is_sent_too(comfy: Comfy, studio: Studio):
    graph = Graph()
    model, clip, _ = graph.tiny()
    video, _ = graph.video(model, graph.text(clip), seconds=1.3, seed=83)
    graph.keep(video)
    in_the_way = comfy.server.output_directory / "sfpp_spool"
    aside = in_the_way.with_name("spool_aside")
    if in_the_way.exists():
        in_the_way.rename(aside)
    in_the_way.write_text("no folder")
    events: list[object] = []
    try:
        with pytest.raises(NodeFailed, match="Finished chunks are kept there"):
            studio.run(graph, on_event=events.append)
    finally:
        in_the_way.unlink()
        if aside.exists():
            aside.rename(in_the_way)
    assert executed(events, video[0]) == ["21 frames, 1.31 s, rounded up from 1.3 s"]


def test_the_sampler_says_which_prompts_come_too_late(studio: Studio):
    graph = Graph()
    model, clip, _ = graph.tiny()
    lines = f"0:00 {PROMPT}\n0:01 {PROMPT}\n0:30 {PROMPT}\n1:00 {PROMPT}"
    schedule = [graph.add("SFPPPromptSchedule", clip=clip, lines=lines, crossfade=0.0, recache=False), 0]
    video, state = graph.video(model, schedule, seconds=2.0, seed=82)
    graph.keep(graph.more(model, state, seconds=1.0, positive=schedule)[0])
    outputs = studio.run(graph).outputs
    assert outputs[schedule[0]]["text"][0].startswith("4 prompts:\n0:00 ")
    assert "Too late for this video: the prompts of 0:30, 1:00." in outputs[video[0]]["text"][0]
