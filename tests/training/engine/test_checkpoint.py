"""A run that is killed, that finds its disk full or that another number of processes goes on with is the same run."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from tests.helpers.line_task import (
    LineConfig,
    LineTask,
    assert_same_state,
    fit,
    make_config,
    paused,
    run_line,
    saved_state,
    saving_always,
)
from tests.helpers.processes import exit_codes, run_together, start
from training.config import ConfigError
from training.engine.checkpoint import RunCheckpointError, read_checkpoint, write_checkpoint
from training.engine.run_folder import FORMER_CHECKPOINT_NAME, PARTIAL_NAME, RunFolder


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    state = {
        "step": 3,
        "nested": {"weights": {"blocks.0.q": torch.randn(3, 2)}, "list": [torch.arange(4), None, "text", 0.1]},
        "half": torch.randn(2, 2).to(torch.bfloat16),
        "nothing": torch.zeros(0, dtype=torch.float64),
        "number": torch.tensor(2.5),
    }
    write_checkpoint(tmp_path / "state", state)
    found = read_checkpoint(tmp_path / "state", lambda path, shape, dtype: torch.empty(shape, dtype=dtype))
    assert found["step"] == 3 and found["nested"]["list"][1:] == [None, "text", 0.1]
    assert_same_state(state, found, within=0)
    assert found["half"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    "call",
    [
        b"cposix\nsystem\n",
        pickle.dumps(Path.touch),
        # A name with a dot reaches whatever a module that belongs in an index has imported for itself.
        b"\x80\x04\x8c\x27torch.distributed.checkpoint.filesystem\x8c\x09os.system\x93",
    ],
    ids=["elsewhere", "method of a path", "behind a module"],
)
def test_opening_a_checkpoint_runs_no_code_from_it(tmp_path: Path, call: bytes) -> None:
    write_checkpoint(tmp_path, {"x": torch.ones(2)})
    (tmp_path / ".metadata").write_bytes(call.rstrip(b".") + b"(X\x06\x00\x00\x00sprungtR.")
    with pytest.raises(RunCheckpointError, match="no part of a checkpoint's index"):
        read_checkpoint(tmp_path, lambda path, shape, dtype: torch.empty(shape, dtype=dtype))


def test_a_state_that_cannot_be_written_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder(make_config(tmp_path), stage="line")
    folder.save(1, {"step": 1})
    with pytest.raises(TypeError, match="JSON"):
        folder.save(2, {"step": lambda: None})
    assert folder.step == 1 and folder.load(torch.empty) == {"step": 1}


def test_only_the_newest_checkpoint_is_kept(tmp_path: Path) -> None:
    folder = RunFolder(make_config(tmp_path), stage="line")
    for step in (9, 10, 11):
        folder.save(step, {"x": torch.tensor([float(step)])})
    assert [path.name for path in tmp_path.glob("*checkpoint*")] == ["checkpoint-00000011"]


def _save_and_die(config: LineConfig) -> None:
    """Save step 2, and be killed before anything of the one before it is removed."""
    folder = RunFolder(config, stage="line")
    with patch("training.engine.run_folder.shutil.rmtree", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)):
        folder.save(2, {"step": 2})


@pytest.mark.endurance
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
@pytest.mark.parametrize("half_removed", [False, True])
def test_what_a_killed_save_leaves_is_removed(tmp_path: Path, half_removed: bool) -> None:
    config = make_config(tmp_path)
    RunFolder(config, stage="line").save(1, {"step": 1})
    process = start(_save_and_die, config)
    process.join()
    assert len(list(tmp_path.glob("checkpoint-*"))) == 2, "it died at the moment in question"
    if half_removed:
        (tmp_path / "checkpoint-00000001" / ".metadata").unlink()

    folder = RunFolder(config, stage="line")
    assert folder.load(torch.empty) == {"step": 2}
    assert [path.name for path in tmp_path.glob("*checkpoint*")] == ["checkpoint-00000002"]


def test_a_save_removes_all_checkpoints_but_its_own(tmp_path: Path) -> None:
    folder = RunFolder(make_config(tmp_path), stage="line")
    folder.save(3, {"step": 3})
    for step in (1, 2):
        shutil.copytree(tmp_path / "checkpoint-00000003", tmp_path / f"checkpoint-0000000{step}")
    shutil.copytree(tmp_path / "checkpoint-00000003", tmp_path / "checkpoint-of-mine")
    folder.save(4, {"step": 4})
    assert {path.name for path in tmp_path.glob("*checkpoint*")} == {"checkpoint-00000004", "checkpoint-of-mine"}
    assert folder.step == 4


def test_a_run_of_the_earlier_format_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / FORMER_CHECKPOINT_NAME).write_bytes(b"")
    with pytest.raises(ConfigError, match="an earlier version.*Choose another run.out"):
        RunFolder(make_config(tmp_path), stage="line")


@pytest.mark.endurance
def test_a_run_killed_at_random_moments_is_the_run_that_was_not(tmp_path: Path) -> None:
    steps = 60
    whole = saving_always(make_config(tmp_path / "whole", steps=steps))
    fit(LineTask(whole), whole)

    config = saving_always(make_config(tmp_path / "killed", steps=steps))
    moments = random.Random(0)
    folder = tmp_path / "killed"
    for _ in range(4):
        before = set(folder.glob("checkpoint-*"))
        process = start(run_line, config)
        while process.is_alive() and set(folder.glob("checkpoint-*")) <= before:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -9, "the run was over before it could be killed"
    process = start(run_line, config)
    assert exit_codes([process]) == [0]
    assert_same_state(saved_state(whole), saved_state(config), within=0)
    assert not (folder / PARTIAL_NAME).exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, 400 KiB large."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_last_checkpoint(small_disk: Path, tmp_path: Path) -> None:
    config = make_config(small_disk / "run", width=1000)
    fit(LineTask(config), paused(config))
    filler = small_disk / "filler"
    filler.write_bytes(bytes(300 * 1024 - sum(path.stat().st_size for path in small_disk.rglob("*") if path.is_file())))
    with pytest.raises(RunCheckpointError, match=r"step 2 could not be written.*checkpoint-00000001 is as it was"):
        fit(LineTask(config), paused(config))
    filler.unlink()
    _finishes_like_another(config, tmp_path / "undisturbed")


def _limit_files_and_run(config: LineConfig, limit: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with pytest.raises(RunCheckpointError, match=r"step 2 could not be written"):
        run_line(config)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_file_that_may_not_grow_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    config = make_config(tmp_path / "run", width=1000)
    fit(LineTask(config), paused(config))
    process = start(_limit_files_and_run, paused(config), 20_000)
    assert exit_codes([process]) == [0]
    _finishes_like_another(config, tmp_path / "undisturbed")


def _finishes_like_another(config: LineConfig, out: Path) -> None:
    assert RunFolder(config, stage="line").step == 1
    fit(LineTask(config), config)
    other = replace(config, run=replace(config.run, out=str(out)))
    fit(LineTask(other), other)
    assert_same_state(saved_state(other), saved_state(config), within=0)


def test_two_processes_go_on_with_the_run_of_one_and_the_reverse(tmp_path: Path) -> None:
    alone, one_two, two_one = (make_config(tmp_path / name) for name in ("alone", "one_two", "two_one"))
    fit(LineTask(alone), alone)
    expected = saved_state(alone)
    assert expected["task"]["points"].shape == (4, 3)

    fit(LineTask(one_two), paused(one_two))
    run_together(run_line, one_two)
    assert_same_state(expected, saved_state(one_two), within=1e-6)

    run_together(run_line, paused(two_one))
    assert saved_state(two_one)["step"] == 1
    fit(LineTask(two_one), two_one)
    assert_same_state(expected, saved_state(two_one), within=1e-6)
