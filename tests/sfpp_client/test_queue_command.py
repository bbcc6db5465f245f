"""The queue and locales commands against a server that behaves oddly, and where two of them fetch at once."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from sfpp_client import ComfyClient, OutputFile, ResultGone, ServerUnreachable, StrangeAnswer
from sfpp_client.queue import outcome
from sfpp_client.queue.outcome import fetch
from tests.helpers.stand_in import Answer, StandIn, of_json, page, standing_in
from tests.test_packaging import PROJECT
from tools import locales
from tools.comfy_server import ROOT

VIDEO = OutputFile(node_id="1", filename="film_00001_.mp4", subfolder="", folder="output")
WHOLE = Answer(body=b"a video")
BROKEN_OFF = Answer(body=b"a", headers={"Content-Length": "1000"})


@pytest.fixture
def server() -> Iterator[StandIn]:
    with standing_in() as server:
        yield server


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "_DELAY_S", 0.02)


def queue(workflow: Path, *words: str, server: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "scripts.queue", str(workflow), "--server", server, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )


def test_two_jobs_that_end_together_lose_no_video(server: StandIn, tmp_path: Path):
    both_are_at_it = threading.Barrier(2, timeout=30)
    videos = iter([b"one", b"the other"])

    def video() -> Answer:
        both_are_at_it.wait()
        return Answer(body=next(videos))

    server.answers["view"] = [video]
    with ThreadPoolExecutor(2) as jobs:
        clients = [ComfyClient(server.url) for _ in range(2)]
        made = [jobs.submit(fetch, client, VIDEO, tmp_path, patience_s=0) for client in clients]
        paths = {job.result() for job in made}
    assert {path.name for path in paths} == {"film_00001_.mp4", "film_00001_ (1).mp4"}
    assert {path.read_bytes() for path in paths} == {b"one", b"the other"}
    assert set(tmp_path.iterdir()) == paths, "and nothing else is left there"


def test_a_video_that_is_there_is_kept(server: StandIn, tmp_path: Path):
    server.answers["view"] = [WHOLE]
    there = tmp_path / VIDEO.filename
    there.write_bytes(b"an older video")
    path = fetch(ComfyClient(server.url), VIDEO, tmp_path, patience_s=0)
    assert path.name == "film_00001_ (1).mp4" and path.read_bytes() == WHOLE.body
    assert there.read_bytes() == b"an older video"


def test_a_server_that_is_away_for_a_moment_costs_no_video(
    server: StandIn, tmp_path: Path, hurried: None, capsys: pytest.CaptureFixture[str]
):
    server.answers["view"] = [page(503), page(500), page(), BROKEN_OFF, WHOLE]
    path = fetch(ComfyClient(server.url), VIDEO, tmp_path, patience_s=60)
    assert path == tmp_path / VIDEO.filename and path.read_bytes() == WHOLE.body
    assert len(capsys.readouterr().err.splitlines()) == 1, "it is said once"


@pytest.mark.parametrize(
    ("answer", "patience_s", "kind"),
    [
        (page(503), 0.1, ServerUnreachable),
        (BROKEN_OFF, 0, ServerUnreachable),
        (page(), 0.1, StrangeAnswer),
        (Answer(status=404), 60, ResultGone),
    ],
)
def test_a_video_that_cannot_be_fetched_leaves_nothing(
    server: StandIn, tmp_path: Path, hurried: None, answer: Answer, patience_s: float, kind: type[Exception]
):
    server.answers["view"] = [answer]
    with pytest.raises(kind):
        fetch(ComfyClient(server.url), VIDEO, tmp_path, patience_s=patience_s)
    assert not list(tmp_path.iterdir())


def test_the_command_waits_for_a_video_as_long_as_it_is_told(server: StandIn, tmp_path: Path):
    (tmp_path / "workflow.json").write_text("{}")
    images = [{"filename": VIDEO.filename, "subfolder": "", "type": "output"}]
    server.answers["history"] = [lambda: server.has_made(**{"1": {"images": images}})]
    server.answers["view"] = [page(503), WHOLE]
    job = queue(tmp_path / "workflow.json", "--out", str(tmp_path / "films"), server=server.url)
    assert (job.returncode, job.stdout.splitlines()) == (0, [str(tmp_path / "films" / VIDEO.filename)]), job.stderr
    server.answers["view"] = [page(503), WHOLE]
    job = queue(tmp_path / "workflow.json", "--out", str(tmp_path / "films"), "--patience", "0", server=server.url)
    assert job.returncode == 69, job.stderr


def test_no_record_holds_a_password(server: StandIn, tmp_path: Path):
    (tmp_path / "workflow.json").write_text("{}")
    server.answers["ws"] = [page(401)]
    job = queue(tmp_path / "workflow.json", "--json", server=f"http://bob:secret@{server.host}")
    record = json.loads(job.stdout)
    assert (job.returncode, record["server"]) == (76, server.url) and "name and password" in record["message"]
    assert "secret" not in job.stdout + job.stderr


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_a_workflow_with_a_number_that_json_lacks_is_refused(server: StandIn, tmp_path: Path, number: str):
    path = tmp_path / "workflow.json"
    path.write_text(f'{{"1": {{"class_type": "SFPPSampler", "inputs": {{"shift": {number}}}}}}}')
    job = queue(path, server=server.url)
    assert job.returncode == 65 and "cannot be written as JSON" in job.stderr


def test_a_text_that_stdout_has_no_characters_for_is_listed(server: StandIn, tmp_path: Path):
    path = tmp_path / "workflow.json"
    workflow = {"1": {"class_type": "CLIPTextEncode", "inputs": {"text": "\u6d77 sea"}}}
    path.write_text(json.dumps(workflow))
    server.answers["object_info"] = [of_json({})]
    job = queue(path, "--list", server=server.url, PYTHONIOENCODING="cp1252")
    assert job.returncode == 0 and r"\u6d77 sea" in job.stdout, job.stderr


def test_texts_are_not_written_over_from_a_server_without_the_pack(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "en").mkdir()
    kept = tmp_path / "en" / "nodeDefs.json"
    kept.write_text("what translators start from")
    server.answers["object_info"] = [of_json({"SaveImage": {"category": "image"}})]
    monkeypatch.setattr(locales, "FOLDER", tmp_path)
    monkeypatch.setattr(locales, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["locales", "--server", server.url])
    with pytest.raises(SystemExit, match="no nodes of the pack; name a server that has loaded it"):
        locales.main()
    assert kept.read_text() == "what translators start from"


def test_what_has_to_be_installed_for_it_is_documented():
    """As the extra `client`, in the command of one document and the table of the other."""
    program = "import sys, sfpp_client.queue.__main__\n"
    program += "for one in [*sys.modules.values()]: print(getattr(one, '__file__', ''))"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    folders = (ROOT / "sfpp_client", ROOT / "sfpp_core")
    own = [path for path in map(Path, loaded.stdout.splitlines()) if any(map(path.is_relative_to, folders))]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in own]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0}
    distributions = packages_distributions()
    needed = {
        distributions[top][0]
        for top in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"sfpp_client", "sfpp_core"}
    }
    assert {Requirement(line).name for line in PROJECT["optional-dependencies"]["client"]} == needed
    headless = (ROOT / "docs" / "headless.md").read_text(encoding="utf-8")
    assert set(re.search(r"pip install ([\w -]+?) +#", headless)[1].split()) == needed
    dependencies = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    section = dependencies.partition("## To talk to a server")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| ([\w-]+) \|", section, re.MULTILINE)) == needed | {"package"}
