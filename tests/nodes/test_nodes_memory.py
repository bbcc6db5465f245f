"""How the model's memory of a video is kept is the artist's choice, and running out of memory is answered with one."""

from __future__ import annotations

import psutil
import pytest

from sfpp_client import NodeFailed
from tests.nodes.graphs import Graph, Link, Studio, equal


@pytest.fixture
def studio(comfy) -> Studio:
    return Studio(comfy)


def test_the_form_is_the_videos_own_and_its_place_is_not(studio: Studio):
    """One go, in pieces, and with the past elsewhere; a changed mind makes another video."""
    graph = Graph()
    model, clip, _ = graph.tiny()
    text = graph.text(clip)
    plain, _ = graph.video(model, text, seconds=1.2)
    elsewhere, _ = graph.video(model, text, seconds=1.2, cache_storage="CPU memory")
    whole, _ = graph.video(model, text, seconds=1.2, cache_storage="int8")
    _, begun = graph.video(model, text, cache_storage="int8")
    _, continued, _ = graph.more(model, begun)
    _, moved, _ = graph.more(model, begun, cache_storage="CPU memory, int8")
    _, changed, _ = graph.more(model, begun, cache_storage="as computed")
    videos = studio.latents(graph, plain, elsewhere, whole, continued, moved, changed)
    plain, elsewhere, whole, continued, moved, changed = videos
    assert equal(plain, elsewhere)
    assert equal(whole, continued) and equal(whole, moved)
    assert not equal(whole, plain)
    # The first chunk has no past that could be kept in any form.
    assert equal(changed, plain)


def test_what_no_memory_could_hold_is_refused_before_it_is_tried(studio: Studio):
    graph = Graph()
    model, clip, _ = graph.tiny()
    said = refusal(studio, graph.video(model, graph.text(clip), width=8192, height=8192, window=1024)[0], graph)
    assert "Not enough memory for 8192x8192 pixels with a window of 1024 latent frames. This computer has" in said
    assert "Its past needs 2199.0 GB" in said and '"int8" 1108.1 GB' in said
    assert '"CPU memory' not in said, "it computes there, so there is nothing to move"
    assert "None of these fits. Set " in said


@pytest.mark.skipif(not hasattr(psutil, "RLIMIT_AS"), reason="this system cannot take memory away from a process")
def test_running_out_of_memory_says_what_would_fit(comfy, studio: Studio):
    """The server gets only a little more memory than it has, and goes on once it has it back."""
    graph = Graph()
    model, clip, _ = graph.tiny()
    video, _ = graph.video(model, graph.text(clip), window=600, width=512, height=512)
    server = server_process()
    _, hard = server.rlimit(psutil.RLIMIT_AS)
    server.rlimit(psutil.RLIMIT_AS, (server.memory_info().vms + 2**30, hard))
    try:
        said = refusal(studio, video, graph)
    finally:
        server.rlimit(psutil.RLIMIT_AS, (psutil.RLIM_INFINITY, hard))
    assert "Not enough memory for 512x512 pixels with a window of 600 latent frames." in said
    assert "Its past needs 5.0 GB" in said and 'Set cache_storage to "int8" (a video that differs a little).' in said
    graph = Graph()
    model, clip, _ = graph.tiny()
    (small,) = studio.latents(graph, graph.video(model, graph.text(clip), seed=99)[0])
    assert small.shape[2] == 3


def refusal(studio: Studio, video: Link, graph: Graph) -> str:
    graph.keep(video)
    with pytest.raises(NodeFailed) as failed:
        studio.run(graph)
    return str(failed.value)


def server_process() -> psutil.Process:
    """The ComfyUI that the tests share."""
    children = psutil.Process().children(recursive=True)
    (server,) = (child for child in children if "main.py" in " ".join(child.cmdline()))
    return server
