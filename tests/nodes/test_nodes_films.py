"""Videos made through a real ComfyUI: how they go on, what starts them, and that states are values."""

from __future__ import annotations

import itertools
import statistics
import time
from pathlib import Path

import pytest

from sfpp_client import Message, NodeFailed, Preview, Progress, RunInterrupted
from tests.nodes.graphs import ONE_CHUNK, OTHER_PROMPT, Graph, Studio, equal


@pytest.fixture
def studio(comfy) -> Studio:
    return Studio(comfy)


def test_a_video_in_pieces_is_the_video_in_one_go(studio: Studio):
    graph = Graph()
    model, clip, _ = graph.tiny()
    text = graph.text(clip)
    whole, _ = graph.video(model, text, seconds=2.0)
    begun, state = graph.video(model, text)
    _, longer, state = graph.more(model, state)
    added, in_pieces, _ = graph.more(model, state)
    whole, begun, longer, added, in_pieces = studio.latents(graph, whole, begun, longer, added, in_pieces)
    assert whole.shape == (1, 16, 9, 8, 8)
    assert equal(whole, in_pieces)
    assert equal(begun, whole[:, :, :3]) and equal(longer, whole[:, :, :6]) and equal(added, whole[:, :, 6:])


def test_extending_twice_from_one_state_gives_the_same_video_twice(studio: Studio):
    """The second run edits Extend and the third undoes it, so that ComfyUI runs the node again on the state it kept."""
    results = []
    for seconds in (ONE_CHUNK, 2 * ONE_CHUNK, ONE_CHUNK):
        graph = Graph()
        model, clip, _ = graph.tiny()
        _, state = graph.video(model, graph.text(clip), seed=11)
        _, whole, _ = graph.more(model, state, seconds=seconds)
        kept = graph.keep(whole)
        executed: set[str] = set()
        result = studio.run(graph, on_event=lambda event, seen=executed: seen.add(getattr(event, "node_id", None)))
        results.append((studio.latent(result, kept), executed))
    (first, _), (longer, _), (again, executed) = results
    assert "4" in executed, "ComfyUI did not run SFPPExtend again, so this test shows nothing"
    assert equal(first, again)
    assert equal(longer[:, :, :6], first)


def test_branches_from_one_state_do_not_touch_each_other(studio: Studio):
    graph = Graph()
    model, clip, _ = graph.tiny()
    _, state = graph.video(model, graph.text(clip))
    _, alone, _ = graph.more(model, state)
    _, other, _ = graph.more(model, state, positive=graph.text(clip, OTHER_PROMPT))
    _, continued, _ = graph.more(model, graph.more(model, state)[2])
    alone, other, continued = studio.latents(graph, alone, other, continued)
    assert not equal(alone, other), "the second prompt changed nothing"
    assert equal(alone[:, :, :3], other[:, :, :3])
    assert equal(alone, continued[:, :, :6])


def test_seed_and_settings_decide_the_video(studio: Studio):
    graph = Graph()
    model, clip, _ = graph.tiny()
    text = graph.text(clip)
    videos = [
        graph.video(model, text, seconds=1.0, **changes)[0]
        for changes in (
            {},
            {"seed": 8},
            {"steps": "1000, 500"},
            {"shift": 3.0},
            {"chunk": 1},
            {"sink": 0, "window": 5},
            {"sink": 1, "window": 9},
            {"context_noise": 100.0},
        )
    ]
    reference, *others = studio.latents(graph, *videos)
    for other in others[:4]:
        assert not equal(reference, other)
    # What only the past can change leaves the first chunk alone.
    for other in others[4:]:
        assert equal(reference[:, :, :3], other[:, :, :3])


@pytest.mark.parametrize("given_frames, length", ((1, 1), (9, 3), (13, 4)))
def test_a_start_becomes_the_beginning_of_the_video(studio: Studio, given_frames: int, length: int):
    graph = Graph()
    model, clip, vae = graph.tiny()
    picture = [graph.add("EmptyImage", width=64, height=64, batch_size=given_frames, color=0x3366CC), 0]
    given = [graph.add("VAEEncode", pixels=picture, vae=vae), 0]
    video, state = graph.video(model, graph.text(clip), start=given)
    _, longer, _ = graph.more(model, state)
    given, video, longer = studio.latents(graph, given, video, longer)
    assert given.shape[2] == length and video.shape[2] == length + 3 and longer.shape[2] == length + 6
    # To the model's normalised space and back.
    assert (video[:, :, :length] - given).abs().max() < 1e-5
    assert equal(video, longer[:, :, : length + 3])


def test_progress_is_counted_in_chunks_and_moves_within_them(studio: Studio):
    graph = Graph()
    model, clip, _ = graph.tiny()
    video, _ = graph.video(model, graph.text(clip), seconds=2.0, seed=21)
    graph.keep(video)
    events = []
    studio.run(graph, on_event=events.append)
    progress = [event for event in events if isinstance(event, Progress) and event.node_id == video[0]]
    assert {event.maximum for event in progress} == {3}
    values = [event.value for event in progress]
    # Newer servers pass on no more than ten of these a second.
    assert values == sorted(values) and values[-1] == 3 and any(value % 1 for value in values)


def test_the_preview_plays_the_latest_seconds_again_and_again(studio: Studio):
    graph = Graph()
    model, clip, _ = graph.tiny()
    video, _ = graph.video(model, graph.text(clip), seconds=60.0, seed=23)
    graph.keep(video)
    previews: list[tuple[float, Preview]] = []
    after = []

    def watch(event: object) -> None:
        if isinstance(event, Preview):
            previews.append((time.monotonic(), event))
        elif isinstance(event, Message) and event.kind == "executing" and event.data.get("node") != video[0]:
            after.append(len(previews))

    studio.run(graph, on_event=watch)
    assert {event.node_id for _, event in previews} == {video[0]}
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(previews)]
    assert 0.2 < statistics.median(gaps) < 0.4, "a latent frame is a quarter of a second"
    assert len({event.image for _, event in previews}) > len(previews) / 2, "the same picture all the time"
    assert after and after[-1] == len(previews), "the preview went on after the node was over"


def test_interrupt_stops_within_a_network_call_and_the_next_video_is_whole(studio: Studio, comfy):
    graph = Graph()
    model, clip, _ = graph.tiny()
    video, _ = graph.video(model, graph.text(clip), seconds=600.0, seed=22)
    graph.keep(video)
    after_interrupt = []

    def interrupt_at_first_progress(event: object) -> None:
        if isinstance(event, Progress) and event.node_id == video[0]:
            if not after_interrupt:
                comfy.client.interrupt()
            after_interrupt.append(event.value)

    with pytest.raises(RunInterrupted):
        studio.run(graph, on_event=interrupt_at_first_progress)
    # What was on its way when the interrupt was sent, of more than 4000 calls.
    assert len(after_interrupt) < 100

    graph = Graph()
    model, clip, _ = graph.tiny()
    video, _ = graph.video(model, graph.text(clip), seed=22)
    (video,) = studio.latents(graph, video)
    assert video.shape[2] == 3 and video.isfinite().all()


def test_a_state_file_can_be_moved_to_the_input_folder(studio: Studio, comfy):
    graph = Graph()
    model, clip, _ = graph.tiny()
    _, state = graph.video(model, graph.text(clip))
    save = graph.add("SFPPSaveState", state=state, filename_prefix="moved")
    result = studio.run(graph)
    (saved,) = result.outputs[save]["text"]
    (file,) = result.files()
    assert (file.node_id, file.folder, f"{file.subfolder}/{file.filename}".lstrip("/")) == (save, "output", saved)
    Path(comfy.server.output_directory / saved).rename(comfy.server.input_directory / saved)
    options = comfy.client.object_info("SFPPLoadState")["SFPPLoadState"]["input"]["required"]["state_file"]
    assert f"{saved} [input]" in str(options)
    graph = Graph()
    model, _, _ = graph.tiny()
    state = [graph.add("SFPPLoadState", state_file=f"{saved} [input]"), 0]
    (added,) = studio.latents(graph, graph.more(model, state)[0])
    assert added.shape == (1, 16, 3, 8, 8)


def test_a_damaged_state_file_is_refused_by_name(studio: Studio, comfy):
    (comfy.server.input_directory / "broken.sfpp.safetensors").write_bytes(b"not a state")
    graph = Graph()
    model, _, _ = graph.tiny()
    state = [graph.add("SFPPLoadState", state_file="broken.sfpp.safetensors [input]"), 0]
    graph.keep(graph.more(model, state)[0])
    with pytest.raises(NodeFailed, match="broken.sfpp.safetensors is a damaged state"):
        studio.run(graph)
