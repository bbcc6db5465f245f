"""`python -m sfpp_core.stability`, run as people run it: killed, interrupted, given nonsense, and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from sfpp_core.stability.batch.cli import FINE, INTERRUPTED, SOME_FAILED, USAGE, main
from tests.helpers.judge_servers import ChatServer, chat_says, rating_json
from tests.helpers.videos import HEIGHT, WIDTH, write

KEYS = ("GEMINI_API_KEY", "GOOGLE_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL", "SFPP_JUDGE_BASE_URL")
SEGMENTS_A_VIDEO = 4
GOOD = chat_says(rating_json(4))


@pytest.fixture(autouse=True)
def no_keys_and_an_own_ledger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "data"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    """An endpoint that takes its time and rates everything 4; its address is in the environment."""
    server = ChatServer()
    server.replies = [replace(GOOD, delay=0.3)]
    with server.running() as url:
        monkeypatch.setenv("SFPP_JUDGE_BASE_URL", f"{url}/v1")
        yield server


def video_file(path: Path, brightness: float) -> Path:
    """Two seconds of a grey that grows lighter, so that no two parts of videos are equal."""
    path.parent.mkdir(exist_ok=True)
    grey = torch.linspace(brightness, brightness + 0.1, 32)[:, None, None, None]
    return write(path, grey.expand(-1, HEIGHT, WIDTH, 3))


def command(*arguments: str | Path) -> subprocess.Popen[str]:
    """The program in a process group of its own, as under a shell."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-m", "sfpp_core.stability", *map(str, arguments)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.endurance
@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_after_a_kill_the_same_command_goes_on_and_pays_for_no_rating_twice(
    tmp_path: Path, server: ChatServer, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = [
        video_file(tmp_path / "films" / f"{name}.mp4", light) for name, light in (("a", 0.2), ("b", 0.4), ("c", 0.6))
    ]
    (tmp_path / "films" / "b.txt").write_text("A foggy morning.")
    scores = tmp_path / "scores.jsonl"
    arguments = [str(tmp_path / "films"), "--judge", "openai", "--model", "vision", "--segment", "0.5"]
    arguments += ["--jsonl", str(scores)]
    process = command(*arguments, "--jobs", "2")
    wait_for(lambda: len(server.requests) >= 6, process)
    process.kill()
    process.communicate()
    with scores.open("a") as file:
        file.write('{"path": "half a li')

    assert main([*arguments, "--jobs", "1"]) == FINE
    asked = Counter(request.body for request in server.requests)
    assert len(asked) == len(videos) * SEGMENTS_A_VIDEO
    assert set(asked.values()) == {1}
    found = {row["path"]: row for row in rows(scores)}
    assert set(found) == {str(video) for video in videos}
    for row in found.values():
        assert row["score"] == 80.0
        assert [(part["start"], part["end"], part["rating"]) for part in row["segments"]] == [
            (0.0, 0.5, 4), (0.5, 1.0, 4), (1.0, 1.5, 4), (1.5, 2.0, 4)
        ]  # fmt: skip
        assert row["segments"][0]["explanation"] == "Balanced to the end."
        assert "vision" in row["judge"]
    assert found[str(videos[1])]["prompt"] == "A foggy morning."
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:4]] == [str(video) for video in videos]


def damaged(path: Path, strength: float) -> Path:
    """Six seconds of a slow pan over hills of light; the second half is as much too bright."""
    seeds = torch.rand(1, 3, 8, 40, generator=torch.Generator().manual_seed(0))
    hills = torch.nn.functional.interpolate(seeds, (HEIGHT, 4 * WIDTH), mode="bicubic").clamp(0, 1)[0] * 0.6 + 0.1
    frames = torch.stack([hills[:, :, start : start + WIDTH].permute(1, 2, 0) for start in range(96)])
    frames[48:] = (frames[48:] * (1 + 4 * strength)).clamp(max=1)
    path.parent.mkdir(exist_ok=True)
    return write(path, frames)


def test_the_offline_judge_rates_a_folder_and_tells_of_a_file_that_it_cannot_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder, scores, plots = tmp_path / "films", tmp_path / "scores.jsonl", tmp_path / "plots"
    good, cut, white = (damaged(folder / f"{name}.mp4", s) for name, s in (("a", 0), ("b", 0), ("c", 1)))
    cut.write_bytes(cut.read_bytes()[:2000])
    arguments = [str(folder), "--segment", "3", "--jsonl", str(scores), "--plot", str(plots), "--jobs", "1"]
    assert main(arguments) == SOME_FAILED
    found = {row["path"]: row for row in rows(scores)}
    assert found[str(good)]["score"] >= 80
    first, second = found[str(white)]["segments"]
    assert first["rating"] >= 4
    assert second["rating"] < 3
    assert "over-exposure" in second["explanation"]
    assert found[str(cut)]["score"] is None
    assert "b.mp4" in found[str(cut)]["error"]
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in table[1:4]] == [str(good), str(cut), str(white)]
    assert table[2].split()[0] == "failed"
    assert sorted(path.name for path in plots.iterdir()) == ["a.mp4.png", "c.mp4.png"]
    with Image.open(plots / "c.mp4.png") as plot:
        assert plot.width >= 1024

    drawn, lines = (plots / "c.mp4.png").stat().st_mtime_ns, scores.read_text()
    damaged(cut, 0)
    assert main(arguments) == FINE
    assert (plots / "c.mp4.png").stat().st_mtime_ns == drawn
    assert set(lines.splitlines()) & set(scores.read_text().splitlines()) == set(lines.splitlines()[::2])
    assert {row["path"]: row["score"] for row in rows(scores)}[str(cut)] >= 80


def test_two_folders_are_compared_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for name, strength_a, strength_b in (("x", 0.6, 0.0), ("y", 0.8, 0.1), ("z", 0.1, 0.1)):
        damaged(a / f"{name}.mp4", strength_a)
        damaged(b / f"{name}.mp4", strength_b)
    damaged(a / "lonely.mp4", 0)
    report = tmp_path / "comparison.json"
    assert main(["--compare", str(a), str(b), "--compare-json", str(report), "--whole", "--jobs", "1"]) == FINE
    entries = json.loads(report.read_text())
    assert entries["n"] == 3
    assert entries["only_a"] == ["lonely"]
    assert f"lonely is only in {a}" in caplog.text
    assert [pair["name"] for pair in entries["pairs"]] == ["x", "y", "z"]
    assert [pair["difference"] > 0 for pair in entries["pairs"]] == [True, True, False]
    assert entries["win_rate"] == pytest.approx(2.5 / 3)
    assert entries["interval"][0] <= entries["mean_difference"] <= entries["interval"][1]
    table = capsys.readouterr().out
    assert f"mean difference B - A: {entries['mean_difference']:+.2f}" in table
    assert "win rate of B: 83.3%" in table


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_ctrl_c_ends_it_at_once_and_keeps_what_was_rated(tmp_path: Path, server: ChatServer) -> None:
    scores = tmp_path / "scores.jsonl"
    first, second = (video_file(tmp_path / f"{name}.mp4", light) for name, light in (("a", 0.2), ("b", 0.5)))
    server.replies = [*[GOOD] * SEGMENTS_A_VIDEO, replace(GOOD, delay=600)]
    process = command(first, second, "--judge", "openai", "--segment", "0.5", "--jsonl", scores, "--jobs", "1")
    wait_for(lambda: len(server.requests) > SEGMENTS_A_VIDEO and bool(rows(scores)), process)
    os.killpg(process.pid, signal.SIGINT)
    started = time.monotonic()
    output, errors = process.communicate(timeout=60)
    assert time.monotonic() - started < 20
    assert process.returncode == INTERRUPTED
    assert "stopped; what was rated until now is kept" in errors
    assert "Traceback" not in errors
    assert [row["path"] for row in rows(scores)] == [str(first)]


def test_commands_that_make_no_sense_rate_nothing_and_say_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    video = video_file(tmp_path / "a.mp4", 0.2)
    prompts, results = tmp_path / "prompts.jsonl", tmp_path / "scores.jsonl"
    prompts.write_text('{"path": "b.mp4", "prompt": "Fog."}\n')
    video_file(tmp_path / "films" / "b.mp4", 0.2)
    before = video.read_bytes()
    for arguments, words in (
        ([], "give videos or folders"),
        ([video, "--compare", tmp_path, tmp_path], "give videos or folders, or --compare"),
        ([video, "--compare-json", results], "--compare-json needs --compare"),
        ([video, "--jobs", "0"], "0 is too few"),
        ([video, "--segment", "nan"], "nan is no length"),
        ([video, "--segment", "5", "--whole"], "not allowed with"),
        ([video, "--judge", "oracle"], "invalid choice: 'oracle'"),
        ([video, "--model", "gpt"], "the offline judge has no models"),
        ([video, "--judge", "gemini"], "GEMINI_API_KEY"),
        ([video, "--judge", "openai"], "OPENAI_API_KEY"),
        ([video, "--prompts", prompts], "has no prompt for"),
        ([video, "--jsonl", video], "a.mp4 line 1 is no result"),
        ([video, "--ledger", video], "a.mp4 cannot be used as a ledger"),
        ([video, "--jsonl", tmp_path / "no" / "folder.jsonl"], "No such file or directory"),
        (["--compare", video, tmp_path / "nothing"], "nothing does not exist"),
        (["--compare", video, tmp_path / "films"], "have no video of the same name"),
    ):
        caplog.clear()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code
        assert status == USAGE, arguments
        assert words in capsys.readouterr().err + caplog.text, arguments
    assert video.read_bytes() == before
    assert not rows(results)


def test_help_names_the_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert f"{SOME_FAILED} some could not be" in words
    assert f"{INTERRUPTED} stopped by Ctrl-C" in words
