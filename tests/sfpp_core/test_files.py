"""Files that are either whole or not there, and unfinished ones that do not outlive their process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sfpp_core.files import growing, remove_leftovers, replacing
from tests.helpers.memory import ROOT
from tests.helpers.videos import names


def test_a_file_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "video.bin"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "video.bin"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_flushed_is_open_for_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses to flush a file that is open for reading only."""
    fcntl = pytest.importorskip("fcntl", reason="on Windows the other tests show it")
    modes = []
    monkeypatch.setattr(os, "fsync", lambda file: modes.append(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE))
    with replacing(tmp_path / "video.bin") as temporary:
        temporary.write_text("new")
    assert modes == [os.O_RDWR]


HOLD = """
import sys, time
from contextlib import ExitStack
from pathlib import Path
from sfpp_core.files import growing, replacing
with ExitStack() as files:
    for way in (replacing, growing):
        files.enter_context(way(Path(sys.argv[1]))).write_text(way.__name__)
    print("ready", flush=True)
    time.sleep(60)
"""


@contextmanager
def process_at_work(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process amid writing `path` in both ways."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_what_a_killed_process_left_goes_when_the_next_file_comes(tmp_path: Path) -> None:
    with process_at_work(tmp_path / "video.mp4"):
        pass
    left = names(tmp_path)
    assert len(left) == 4 and sum(name.startswith("unfinished.video.") for name in left) == 1, left
    with replacing(tmp_path / "other.bin") as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == ["other.bin"]


def test_what_a_living_process_is_at_stays(tmp_path: Path) -> None:
    with process_at_work(tmp_path / "video.mp4"):
        before = names(tmp_path)
        for _ in range(3):
            with replacing(tmp_path / "other.bin") as temporary:
                temporary.write_text("new")
            remove_leftovers(tmp_path)
        assert names(tmp_path) == sorted([*before, "other.bin"])
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["other.bin"]


def test_a_process_does_not_take_its_own_files_for_left_behind(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.bin") as first, growing(tmp_path / "b.bin") as second:
        first.write_text("a")
        second.write_text("b")
        remove_leftovers(tmp_path)
        assert first.exists() and second.exists()
    assert names(tmp_path) == ["a.bin"]


def test_files_of_others_stay_whatever_they_are_called(tmp_path: Path) -> None:
    others = (
        ".video.tmp.mp4",
        ".video.1a2b3c4d.tmp.mp4",
        "unfinished.video.mp4",
        "video.1a2b3c4d.sfpp-tmp.mp4",
        ".x.lock",
    )
    for name in others:
        (tmp_path / name).write_text("theirs")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted(others)


def test_many_processes_that_begin_and_end_files_never_lose_one(tmp_path: Path) -> None:
    """They clean the same folder all the while; a clean-up that took a file of the living would make its end fail."""
    command = [sys.executable, "-c", MANY, str(tmp_path)]
    writers = [subprocess.Popen([*command, str(number)], cwd=ROOT) for number in range(4)]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0, 0]
    assert names(tmp_path) == sorted(f"{number}.txt" for number in range(4))


MANY = """
import sys
from pathlib import Path
from sfpp_core.files import replacing
path = Path(sys.argv[1], sys.argv[2] + ".txt")
for count in range(100):
    with replacing(path) as temporary:
        temporary.write_text(str(count))
    assert path.read_text() == str(count)
"""


def test_a_folder_must_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "none" / "video.bin"):
        pass
    assert names(tmp_path) == []
