"""The queue command as a pipeline runs it: a process of its own, a real ComfyUI, and every exit code for real."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from sfpp_client import ComfyClient
from tests.nodes.graphs import Graph
from tests.nodes.test_client import picture, slow
from tools.comfy_server import ROOT, ComfyServer, ServerConfig, free_port

VIDEO = ROOT / "workflows" / "api" / "tiny_text_to_long_video.json"
SCORED_VIDEO = VIDEO.with_name("tiny_film_with_stability_report.json")
LIMIT_S = 300


class Job:
    """One `python -m sfpp_client.queue`, whose stderr is read while it runs."""

    def __init__(
        self, workflow: Path, *words: str | Path, server: str, before: Callable[[], None] | None = None
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sfpp_client.queue", str(workflow), "--server", server, *map(str, words)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=before,
        )
        self.stderr = ""

    def wait_for(self, pattern: str) -> None:
        """Read stderr until a line of it matches."""
        for line in self.process.stderr:
            self.stderr += line
            if re.search(pattern, line):
                return
        raise AssertionError(f"the job ended before it said {pattern!r}:\n{self.stderr}")

    def end(self) -> tuple[int, list[str]]:
        """Wait for its end: exit code and lines of stdout."""
        output, rest = self.process.communicate(timeout=LIMIT_S)
        self.stderr += rest
        sys.stderr.write(self.stderr)
        return self.process.returncode, output.splitlines()

    def record(self) -> tuple[int, dict[str, Any]]:
        """Wait for its end: exit code and what `--json` printed."""
        code, (line,) = self.end()
        record = json.loads(line)
        assert record["exit_code"] == code
        return code, record


Start = Callable[..., Job]


@pytest.fixture
def jobs(comfy, tmp_path: Path) -> Iterator[Start]:
    """Starts jobs on the shared server, or on the one that is named; none outlives the test."""
    started: list[Job] = []

    def start(workflow: Path | dict | Graph, *words: str | Path, server: str | None = None, **options: Any) -> Job:
        if isinstance(workflow, Graph):
            workflow = workflow.workflow
        if isinstance(workflow, dict):
            path = tmp_path / f"workflow{len(started)}.json"
            path.write_text(json.dumps(workflow))
            workflow = path
        started.append(Job(workflow, *words, server=server or comfy.server.url, **options))
        return started[-1]

    yield start
    for job in started:
        if job.process.poll() is None:
            job.process.kill()
            job.process.wait()


def wait_until(condition: Callable[[], bool]) -> None:
    """Ask again and again; a minute without a yes is a failure."""
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.05)


def nothing_is_left_in(client: ComfyClient) -> bool:
    """Whether the server neither runs nor keeps anything; a run that is interrupted may take a moment to notice."""
    return not any(client.get_json("/queue").values())


def test_a_video_is_made_as_set_and_fetched(jobs: Start, comfy, tmp_path: Path):
    settings = ("prompt=A green boat glides quickly.", "seconds=1.3", "SFPPSampler.seed=21", "4.crf=30", "steps=preset")
    words = [word for setting in settings for word in ("--set", setting)]
    job = jobs(VIDEO, *words, "--out", tmp_path / "films")
    code, (line,) = job.end()
    assert code == 0
    video = Path(line)
    assert list((tmp_path / "films").iterdir()) == [video]
    with av.open(video) as container:
        assert sum(1 for _ in container.decode(video=0)) == 21
        made_with = json.loads({key.lower(): value for key, value in container.metadata.items()}["prompt"])
    inputs = {name: value for node in made_with.values() for name, value in node["inputs"].items()}
    assert (inputs["text"], inputs["seconds"], inputs["seed"]) == ("A green boat glides quickly.", 1.3, 21)
    assert re.search(r"^queue: SFPP Sampler|^queue: SFPPSampler", job.stderr, re.MULTILINE), job.stderr

    again = jobs(VIDEO, *words, "--out", tmp_path / "films", "--quiet", "--json")
    code, record = again.record()
    assert (code, record["status"], record["attempts"]) == (0, "done", 1) and again.stderr == ""
    assert record["settings"]["4.crf"] == 30 and "3" in record["cached_nodes"]
    (made,) = record["files"]
    assert (made["folder"], made["subfolder"]) == ("output", "video")
    assert Path(made["path"]) != video and Path(made["path"]).read_bytes() == video.read_bytes(), (
        "nothing is overwritten"
    )


def test_list_says_what_can_be_set(jobs: Start):
    code, lines = jobs(VIDEO, "--list").end()
    assert code == 0
    assert any(re.match(r'prompt +=.*"A red ball .*text', line) for line in lines), lines
    assert any(re.match(r"seconds += 60\.0 .*a number from 0\.1 to 3600", line) for line in lines), lines
    code, (line,) = jobs(VIDEO, "--list", "--json").end()
    names = {entry["name"]: entry for entry in json.loads(line)}
    assert names["seed"]["full_name"] == "3.seed" and names["seed"]["value"] == 42


def test_a_local_picture_is_uploaded_and_comes_back(jobs: Start, comfy, tmp_path: Path):
    path = tmp_path / "start bild \u00e4.png"
    Image.new("RGB", (48, 32), (10, 200, 30)).save(path)
    workflow = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "none.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "queue/loaded"}},
    }
    code, lines = jobs(workflow, "--set", f"image=@{path}", "--out", tmp_path / "made").end()
    assert code == 0
    with Image.open(lines[0]) as image:
        assert image.size == (48, 32) and image.getpixel((0, 0)) == (10, 200, 30)
    assert (comfy.server.input_directory / path.name).read_bytes() == path.read_bytes()
    Image.new("RGB", (48, 32), (200, 0, 0)).save(path)
    code, record = jobs(workflow, "--set", f"1.image=@{path}", "--json").record()
    assert code == 0 and record["settings"] == {"1.image": "start bild \u00e4 (1).png"}, "the first one is not replaced"
    assert record["files"][0]["path"] is None, "nothing is fetched unless asked"


def test_a_saved_state_is_uploaded_to_a_node_that_only_lists_files(jobs: Start, comfy, tmp_path: Path):
    first = Graph()
    model, clip, vae = first.tiny()
    _, state = first.video(model, first.text(clip), seed=4711)
    first.add("SFPPSaveState", state=state, filename_prefix="queue/first")
    comfy.client.run(first.workflow, timeout_s=LIMIT_S)
    (saved,) = (comfy.server.output_directory / "queue").glob("first*.sfpp.safetensors")
    local = saved.replace(tmp_path / "from elsewhere.sfpp.safetensors")

    second = Graph()
    model, clip, vae = second.tiny()
    loaded = [second.add("SFPPLoadState", state_file="none"), 0]
    _, whole, _ = second.more(model, loaded)
    second.keep(whole)
    code, record = jobs(second, "--set", f"state_file=@{local}", "--out", tmp_path, "--json").record()
    assert code == 0
    assert record["settings"] == {"2.state_file": f"{local.name} [input]"}
    assert Path(record["files"][0]["path"]).stat().st_size > 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--set", "sedonds=5"], 65, "nothing called sedonds to set; it has"),
        (["--set", "seconds=0"], 65, r"4\.seconds .* is to be '0', but it takes a number from 0\.1 to 3600"),
        (["--set", "judge=best"], 65, r"6\.judge .* takes one of offline [|] "),
        (["--set", "width=65"], 65, r"node 4 \(SFPPSampler\).*width"),
        (["--set", "judge=@no file"], 66, "no file cannot be read: No such file"),
        (["--set", "judge=@{here}"], 65, "does not list test_queue.py"),
        (["--out", "{here}/films"], 73, "--out is .*, where no file can be written"),
    ],
)
def test_a_job_that_cannot_be_is_refused_before_it_is_queued(jobs: Start, words: list[str], code: int, message: str):
    job = jobs(SCORED_VIDEO, *(word.format(here=__file__) for word in words))
    assert job.end() == (code, [])
    assert re.search(message, job.stderr), job.stderr


def test_files_that_hold_no_workflow_are_refused(jobs: Start, tmp_path: Path):
    page = jobs(ROOT / "workflows" / VIDEO.name)
    assert page.end() == (65, []) and str(VIDEO) in page.stderr
    missing = jobs(tmp_path / "none.json")
    assert missing.end() == (66, []) and "none.json cannot be read: No such file" in missing.stderr


def test_a_file_too_large_for_the_server_is_refused_before_it_is_sent(jobs: Start, tmp_path: Path):
    path = tmp_path / "huge.png"
    with open(path, "wb") as file:
        file.truncate(101 * 2**20)
    job = jobs({"1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}}}, "--set", f"image=@{path}")
    assert job.end() == (65, []) and "101.0 MiB" in job.stderr and "--max-upload-size" in job.stderr


def test_nobody_at_the_address(jobs: Start):
    code, record = jobs(picture(0), "--json", server=f"http://127.0.0.1:{free_port()}").record()
    assert (code, record["status"]) == (69, "unavailable") and "no answer from ComfyUI" in record["message"]


def test_somebody_else_at_the_address(jobs: Start):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_answer_with_a_page, args=(listener,), daemon=True).start()
        job = jobs(picture(0), "--list", server=f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert job.end() == (76, []) and "is no JSON" in job.stderr


def _answer_with_a_page(listener: socket.socket) -> None:
    page = b"<html>Please log in</html>"
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(page), page))


def test_a_node_that_fails(jobs: Start):
    job = jobs(picture(0x000006, prefix="../../outside"))
    assert job.end() == (70, [])
    assert re.search(r"node save \(SaveImage\).*(?i:outside the output folder)", job.stderr), job.stderr


def test_a_node_that_asks_for_more_memory_than_there_is(jobs: Start):
    side = {"width": 16384, "height": 16384, "length": 16381, "batch_size": 4096}
    graph = Graph()
    graph.keep([graph.add("EmptyHunyuanLatentVideo", **side), 0])
    code, record = jobs(graph, "--json").record()
    assert (code, record["status"]) == (71, "out_of_memory") and "allocate" in record["message"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process can be set on Linux alone")
def test_a_server_that_cannot_write(jobs: Start, comfy):
    """A limit on the size of files is to the program what a full disk is, and takes no disk to fill."""
    import resource

    graph = Graph()
    graph.keep([graph.add("EmptyHunyuanLatentVideo", width=512, height=512, length=81, batch_size=4), 0])
    # The server still has to write its log.
    limit = max(2**20, 2 * comfy.server.log_path.stat().st_size)
    before = resource.prlimit(comfy.server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(comfy.server.pid, resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        code, record = jobs(graph, "--json").record()
    finally:
        resource.prlimit(comfy.server.pid, resource.RLIMIT_FSIZE, before)
    assert (code, record["status"]) == (73, "not_written") and "SaveLatent" in record["message"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no limit on the size of files")
def test_no_room_for_the_result(jobs: Start, tmp_path: Path):
    import resource

    def allow_a_few_bytes() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))

    job = jobs(picture(0x00AA10), "--out", tmp_path / "made", before=allow_a_few_bytes)
    assert job.end() == (73, []) and re.search(r"client_\d+_\.png could not be written: File too large", job.stderr)
    assert list((tmp_path / "made").iterdir()) == []


def test_a_run_that_takes_too_long_is_stopped(jobs: Start, comfy):
    job = jobs(slow(0x00AA01), "--timeout", "1")
    assert job.end() == (124, []) and "was not over after" in job.stderr
    wait_until(lambda: nothing_is_left_in(comfy.client))


@pytest.mark.parametrize(("request_to_stop", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_job_that_is_stopped_stops_its_run(jobs: Start, comfy, request_to_stop: signal.Signals, code: int):
    job = jobs(slow(0x00AA02 + code), "--json")
    job.wait_for("ImageBlur")
    assert any(comfy.client.get_json("/queue").values())
    job.process.send_signal(request_to_stop)
    ended, record = job.record()
    assert (ended, record["message"]) == (code, "stopped")
    wait_until(lambda: nothing_is_left_in(comfy.client))


def test_somebody_stops_the_run_at_the_server(jobs: Start, comfy):
    running = jobs(slow(0x00AA04))
    running.wait_for("ImageBlur")
    waiting = jobs(slow(0x00AA05))
    waiting.wait_for("waiting, 1 before it")
    pending = comfy.client.get_json("/queue")["queue_pending"]
    comfy.client.cancel_queued(pending[0][1])
    assert waiting.end() == (75, []) and "emptied the server's queue" in waiting.stderr
    comfy.client.interrupt()
    assert running.end() == (75, []) and "interrupted in node" in running.stderr


@pytest.mark.endurance
def test_a_killed_server_is_noticed_and_a_restarted_one_is_queued_on_again(jobs: Start, tmp_path: Path):
    """Three jobs when the power goes: one that waits for nothing, one that may not retry, and one that may."""
    config = ServerConfig(base_directory=tmp_path / "server", port=free_port())
    with ComfyServer(config) as server:
        url = server.url
        video = ("--set", "seconds=6", "--out", tmp_path / "films")
        retrying = jobs(VIDEO, *video, "--retries", "1", "--patience", LIMIT_S, "--json", server=url)
        retrying.wait_for("SFPPSampler")
        hasty = jobs(picture(1), "--patience", "0", "--json", server=url)
        patient = jobs(picture(2), "--patience", LIMIT_S, "--json", server=url)
        wait_until(lambda: len(ComfyClient(url).get_json("/queue")["queue_pending"]) == 2)
        server.kill()
        code, record = hasty.record()
        assert (code, record["status"]) == (69, "unavailable") and "no answer" in record["message"]
        server.start()
        code, record = patient.record()
        assert (code, record["status"]) == (69, "unavailable") and "was restarted" in record["message"]
        code, record = retrying.record()
    assert (code, record["attempts"]) == (0, 2) and "queueing it again" in retrying.stderr
    with av.open(record["files"][0]["path"]) as container:
        assert sum(1 for _ in container.decode(video=0)) == 105
