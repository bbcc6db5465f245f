"""Videos rated by a remote judge through a real ComfyUI, with Google's own client and a server on loopback that
answers.

A ComfyUI of its own, since keys and addresses come from the environment in which it is started.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from sfpp_client import Event, NodeFailed, RunInterrupted, RunResult, WorkflowRefused
from sfpp_core.stability.judges.remote import BASE_URLS
from tests.helpers.judge_servers import GeminiServer, Reply, gemini_error, gemini_says, rating_json
from tests.helpers.videos import moving_square, write
from tests.nodes.conftest import Comfy
from tests.nodes.graphs import Graph, Link, Studio
from tools.comfy_server import ComfyServer, ServerConfig

KEY = "planted-key-A1b2C3d4E5f6"
VIDEO = "video.mp4"
GOOD = gemini_says(rating_json(4, "Balanced to the end."))
OTHER_SETTINGS = ("GOOGLE_API_KEY", "GOOGLE_GENAI_USE_VERTEXAI", "OPENAI_API_KEY", *BASE_URLS)
PAGE = {"nodes": [], "links": [], "version": 0.4}
"""What ComfyUI's page would add to a queued workflow, for the metadata of files."""

# Nodes that give what stock nodes of ComfyUI 0.3.75 do not: a video in memory, and one that Trim Video of 0.26 has cut.
# And one that makes a package missing, or brings it back.
NODES = """
import sys
from io import BytesIO

import folder_paths
from comfy_api.latest import ComfyExtension, InputImpl, io


class InMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="InMemory", inputs=[io.String.Input("file")], outputs=[io.Video.Output("video")])

    @classmethod
    def execute(cls, file):
        with open(folder_paths.get_annotated_filepath(file), "rb") as video:
            return io.NodeOutput(InputImpl.VideoFromFile(BytesIO(video.read())))


class TrimmedFile(InputImpl.VideoFromFile):
    def get_active_trim_window(self):
        return 2.0, 1.0


class Trimmed(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="Trimmed", inputs=[io.String.Input("file")], outputs=[io.Video.Output("video")])

    @classmethod
    def execute(cls, file):
        return io.NodeOutput(TrimmedFile(folder_paths.get_annotated_filepath(file)))


class Missing(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = [io.String.Input("package"), io.Boolean.Input("missing")]
        return io.Schema(node_id="Missing", inputs=inputs, is_output_node=True)

    @classmethod
    def execute(cls, package, missing):
        sys.modules.pop(package, None)
        if missing:
            sys.modules[package] = None
        return io.NodeOutput()


class TestNodes(ComfyExtension):
    async def get_node_list(self):
        return [InMemory, Trimmed, Missing]


async def comfy_entrypoint():
    return TestNodes()
"""


@dataclass
class Stage:
    """A ComfyUI with a key in its environment, and the judge that it asks."""

    comfy: Comfy
    gemini: GeminiServer

    @property
    def studio(self) -> Studio:
        return Studio(self.comfy)

    @property
    def num_questions(self) -> int:
        return len(self.gemini.sent_to("POST", ":generateContent"))

    @contextmanager
    def answering(self, *replies: Reply) -> Iterator[None]:
        """In the block the judge gives these answers, the last again and again."""
        self.gemini.replies = list(replies)
        try:
            yield
        finally:
            self.gemini.replies = [GOOD]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    base = tmp_path_factory.mktemp("judged")
    for name in ("custom_nodes", "input"):
        (base / name).mkdir()
    (base / "custom_nodes" / "test_nodes.py").write_text(NODES)
    write(base / "input" / VIDEO, moving_square(64), fps=16)
    gemini = GeminiServer()
    gemini.replies = [GOOD]
    with gemini.running() as url, pytest.MonkeyPatch.context() as environment:
        for name in OTHER_SETTINGS:
            environment.delenv(name, raising=False)
        environment.setenv("GEMINI_API_KEY", KEY)
        environment.setenv("GOOGLE_GEMINI_BASE_URL", url)
        with ComfyServer(ServerConfig(base_directory=base)) as server:
            yield Stage(Comfy(server), gemini)


@pytest.fixture
def comfy(stage: Stage) -> Comfy:
    """So that a failed test shows this server's log."""
    return stage.comfy


def rated(prompt: str, source: str = "LoadVideo", *, segment_seconds: float = 2.0) -> tuple[Graph, str]:
    """A graph that rates the video, and the id of the rating node."""
    graph = Graph()
    video: Link = [graph.add(source, file=VIDEO), 0]
    settings = {"judge": "gemini", "segment_seconds": segment_seconds, "model": "", "fps": 16.0}
    return graph, graph.add("SFPPVisualStability", video=video, prompt=prompt, **settings)


def explanation(result: RunResult, node_id: str) -> str:
    (said,) = result.outputs[node_id]["text"]
    return said


@pytest.fixture
def without_opencv(stage: Stage) -> Iterator[None]:
    """Only before OpenCV is first used: what is imported stays so. Hence for the first test in this file."""

    def set_missing(missing: bool) -> None:
        graph = Graph()
        graph.add("Missing", package="cv2", missing=missing)
        stage.studio.run(graph)

    set_missing(True)
    yield
    set_missing(False)


def test_a_package_that_comfyui_does_not_bring_is_asked_for(stage: Stage, without_opencv: None):
    graph, rating = rated("a red square")
    graph.workflow[rating]["inputs"]["judge"] = "offline"
    with pytest.raises(WorkflowRefused, match="The Python package cv2 is not installed.*-r requirements.txt"):
        stage.studio.run(graph)


def test_ratings_of_gemini_arrive_and_are_paid_for_once(stage: Stage, comfy: Comfy):
    graph, rating = rated("a red square")
    score = graph.add("PreviewAny", source=[rating, 0])
    before = stage.num_questions
    first = stage.studio.run(graph)
    assert explanation(first, score) == "80.0"
    assert explanation(first, rating).splitlines() == [
        "0:00.0-0:02.0  4.0/5  Balanced to the end.",
        "0:02.0-0:04.0  4.0/5  Balanced to the end.",
    ]
    assert stage.num_questions - before == 2
    comfy.restart()
    again = stage.studio.run(graph)
    assert rating not in again.cached_nodes, "ComfyUI itself remembered the result, so this test shows nothing"
    assert explanation(again, rating) == explanation(first, rating)
    assert stage.num_questions - before == 2


def test_another_prompt_is_another_question(stage: Stage, comfy: Comfy):
    for prompt in ("a red square", "a red square at night"):
        stage.studio.run(rated(prompt)[0])
    asked = stage.num_questions
    stage.studio.run(rated("a red square at noon")[0])
    assert stage.num_questions == asked + 2


def test_what_was_paid_for_before_an_interrupt_is_kept(stage: Stage, comfy: Comfy):
    graph, rating = rated("a square that waits")
    asked = stage.num_questions
    with stage.answering(GOOD, Reply(delay=60)):
        run = comfy.client.queue(graph.workflow)
        until(lambda: stage.num_questions == asked + 2)
        interrupted_at = time.monotonic()
        comfy.client.interrupt(run)
        with pytest.raises(RunInterrupted):
            comfy.client.wait(run, timeout_s=30)
        assert time.monotonic() - interrupted_at < 5
    assert len(explanation(stage.studio.run(graph), rating).splitlines()) == 2
    assert stage.num_questions == asked + 3


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline, "the judge was not asked"
        time.sleep(0.05)


@pytest.mark.parametrize("source, segments", (("InMemory", 2), ("Trimmed", 1)))
def test_videos_that_are_no_whole_file(stage: Stage, comfy: Comfy, source: str, segments: int):
    """One in memory is read like a file, and leaves none behind; of one that was trimmed only the rest counts."""
    graph, rating = rated(f"from {source}", source)
    lines = explanation(stage.studio.run(graph), rating).splitlines()
    assert len(lines) == segments
    assert lines[-1].startswith("0:02.0-0:04.0" if segments == 2 else "0:00.0-0:01.0")
    assert not list((comfy.server.base_directory / "temp").rglob("*.mp4"))


def test_a_refusal_is_a_sentence_without_the_key(stage: Stage, comfy: Comfy):
    graph, _ = rated("a refused square")
    refusal = gemini_error(400, "INVALID_ARGUMENT", f"API key not valid: {KEY}")
    with stage.answering(refusal), pytest.raises(NodeFailed) as failed:
        stage.studio.run(graph)
    assert "could not rate video.mp4" in str(failed.value)
    assert KEY not in str(failed.value)


def test_a_judge_that_cannot_work_is_refused_before_the_queue(stage: Stage):
    graph, rating = rated("a red square")
    graph.workflow[rating]["inputs"]["judge"] = "openai"
    with pytest.raises(WorkflowRefused, match="OPENAI_API_KEY"):
        stage.studio.run(graph)


def test_the_key_is_nowhere(stage: Stage, comfy: Comfy):
    """After everything above, and one more run of which all that ComfyUI says is looked at."""
    graph, rating = rated("the last square")
    report = graph.add("SFPPStabilityReport", report=[rating, 2])
    graph.add("SaveImage", images=[report, 0], filename_prefix="plot")
    graph.add("PreviewAny", source=[report, 1])
    said: list[Event] = []
    result = stage.studio.run(graph, on_event=said.append, extra_data={"extra_pnginfo": {"workflow": PAGE}})
    used = stage.gemini.requests[-1].headers["x-goog-api-key"]
    assert used == KEY, "the key was not used, so this test shows nothing"
    texts = [comfy.client.get(path).text for path in ("/history", "/queue", "/object_info", "/system_stats")]
    texts += [repr(event) for event in said] + [repr(result)]
    assert not [text for text in texts if KEY in text]
    files = [path for path in comfy.server.base_directory.rglob("*") if path.is_file()]
    assert any(path.name == "server.log" for path in files) and any(path.name == "ratings.sqlite3" for path in files)
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
