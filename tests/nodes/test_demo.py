"""scripts/demo as a person runs it: a process of its own that starts its own ComfyUI."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import av
import psutil
import pytest

from tools.comfy_server import ROOT
from tools.demo import parse_arguments


def start_demo(*arguments: str | Path) -> subprocess.Popen[str]:
    """The demo without its set-up: the environment that this test runs in is the one that set-up made."""
    return subprocess.Popen(
        [sys.executable, "-m", "tools.demo", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_video_of_the_asked_length_is_where_the_demo_says(tmp_path: Path):
    demo = start_demo("--seconds", "2", "--prompt", "a red ball rolls over the beach", "--seed", "7", "--out", tmp_path)
    output, _ = demo.communicate(timeout=500)
    assert demo.returncode == 0, output
    assert re.search(r"making: \d+\.\d of 2\.0 s of video", output), output
    (video,) = tmp_path.iterdir()
    assert str(video) in output.splitlines()[-1]
    with av.open(video) as container:
        num_frames = sum(1 for _ in container.decode(video=0))
        assert container.streams.video[0].average_rate == 16
    # 2 s are 32 frames; chunks of 3 latent frames make 33 of them.
    assert num_frames == 33


@pytest.mark.parametrize(
    ("request_to_stop", "status"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.endurance)],
)
def test_demo_that_is_stopped_takes_its_server_along(tmp_path: Path, request_to_stop: signal.Signals, status: int):
    demo = start_demo("--seconds", "600", "--out", tmp_path)
    assert any("making" in line for line in demo.stdout), "the demo ended before it began"
    processes = psutil.Process(demo.pid).children(recursive=True)
    assert any("main.py" in process.cmdline() for process in processes)
    demo.send_signal(request_to_stop)
    output, _ = demo.communicate(timeout=60)
    assert demo.returncode == status, output
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive
    assert list(tmp_path.iterdir()) == []


def test_a_place_for_no_video_is_refused_before_there_is_one(tmp_path: Path):
    (tmp_path / "notes").touch()
    demo = start_demo("--seconds", "600", "--out", tmp_path / "notes")
    output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 1
    assert output == f"demo: --out is {tmp_path / 'notes'}, where no file can be written: File exists\n"


@pytest.mark.parametrize("seconds", ["0", "-3", "nan", "inf", "long"])
def test_length_that_is_none_is_refused(seconds: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        parse_arguments(["--seconds", seconds])
    assert f"--seconds: {seconds} is no length" in capsys.readouterr().err
