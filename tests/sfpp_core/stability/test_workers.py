"""Tasks run side by side; a process that dies takes only its own task with it, and none outlives whoever wants it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from sfpp_core.stability.batch.rate import WorkerDied, run_in_processes
from tests.helpers.crashing_work import make_work

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of Unix")


def run(folder: Path, tasks: list[str], num_processes: int) -> Iterator[tuple[str, str | WorkerDied]]:
    return run_in_processes(partial(make_work, folder), tasks, num_processes)


def started(folder: Path) -> dict[str, int]:
    """The process of each task that was begun."""
    return {name: int(pid) for name, pid in (path.name.split(" ") for path in folder.iterdir())}


def runs(pid: int) -> bool:
    """Whether a process is alive; one that nobody has fetched the end of is not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_every_task_has_a_result_whichever_process_dies(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tasks = ["a", "killed1", "b", "raises1", "c", "killed2", "d", "e"]
    results = dict(run(tmp_path, tasks, 2))
    assert {task: result for task, result in results.items() if not isinstance(result, WorkerDied)} == {
        task: task.upper() for task in "abcde"
    }
    assert str(results["killed1"]) == str(results["killed2"])
    assert "ended by SIGKILL; the machine may have run out of memory" in str(results["killed1"])
    assert "ended with exit status 1" in str(results["raises1"])
    assert "a fault" in capfd.readouterr().err
    processes = started(tmp_path)
    assert set(processes) == set(tasks)
    # Two to begin with, and one for each that died, unless it was at the last task.
    assert len(set(processes.values())) in (4, 5)
    assert not any(runs(pid) for pid in processes.values())


def test_whoever_stops_listening_ends_what_is_running(tmp_path: Path) -> None:
    results = run(tmp_path, ["sleeps", "a"], 2)
    assert next(results) == ("a", "A")
    wait_for(lambda: "sleeps" in started(tmp_path))
    results.close()
    assert not runs(started(tmp_path)["sleeps"])


PARENT = """
import signal
import sys
from functools import partial
from pathlib import Path
from sfpp_core.stability.batch.rate import run_in_processes
from tests.helpers.crashing_work import make_work

if __name__ == "__main__":
    # As in a terminal, also where the tests run as a shell's background job, which is deaf to interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tasks = sys.argv[2:]
    try:
        for task, result in run_in_processes(partial(make_work, Path(sys.argv[1])), tasks, len(tasks)):
            print(result, flush=True)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that still runs two of its three tasks, in a process group of its own as under a shell."""
    script, notes = tmp_path / "parent.py", tmp_path / "notes"
    script.write_text(PARENT)
    notes.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, str(script), str(notes), "a", "naps", "sleeps"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "A\n"
        wait_for(lambda: len(started(notes)) == 3)
        yield process
    finally:
        for pid in (process.pid, *started(notes).values()):
            if runs(pid):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def test_an_interrupt_from_the_keyboard_ends_all_at_once_without_a_word(
    parent: subprocess.Popen[str], tmp_path: Path
) -> None:
    os.killpg(parent.pid, signal.SIGINT)
    _, errors = parent.communicate(timeout=30)
    assert parent.returncode == 130
    assert errors == ""
    assert not any(runs(pid) for pid in started(tmp_path / "notes").values())


@pytest.mark.endurance
def test_a_worker_whose_parent_was_killed_ends_its_task_and_leaves(
    parent: subprocess.Popen[str], tmp_path: Path
) -> None:
    parent.kill()
    parent.wait()
    wait_for(lambda: not runs(started(tmp_path / "notes")["naps"]))
    assert runs(started(tmp_path / "notes")["sleeps"])
