"""A stage that is killed without a word, as by a power cut, and started again is the one that was not, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tests.helpers.line_task import assert_same_state, tensors_of
from tests.helpers.stage_cases import CASES, Case, write_files
from training.engine.checkpoint import read_checkpoint
from training.engine.run_folder import newest_checkpoint

ROOT = Path(__file__).parents[3]
STEPS = 5
SECONDS = 240
"""For a run, on a busy machine."""
# A checkpoint after every step, and steps so large that the exported weights, in half precision, are others after each.
WORDS = (f"steps={STEPS}", "run.save_minutes=1e-9", "run.watch_every=1000", "optimizer.lr=1e-3")
KILLED = {
    # Of shared windows, which are rolled before the student's update: its checkpoint has a cache of older weights.
    "sfpp by the chunk": (*WORDS, "critic.optimizer.lr=1e-3", "critic.windows=shared"),
    "grpo": WORDS,
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("here")
    write_files(folder)
    return folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A stage in a process of its own."""

    process: subprocess.Popen[bytes]
    out: Path
    log: Path

    def finish(self) -> None:
        assert self.process.wait(SECONDS) == 0, self.log.read_text()

    def kill_after_a_checkpoint(self) -> int:
        """Steps in the checkpoint that the killed process leaves."""
        deadline = time.monotonic() + SECONDS
        while newest_checkpoint(self.out) is None and self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        self.process.send_signal(signal.SIGKILL)
        assert self.process.wait(SECONDS) == -signal.SIGKILL, self.log.read_text()
        return state_of(self.out)["step"]


@contextmanager
def started(case: Case, out: Path, *words: str) -> Iterator[Run]:
    """By the command line; no process outlives the block."""
    log = out.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "training", *case.command(out, *words)],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            yield Run(process=process, out=out, log=log)
        finally:
            process.kill()
            process.wait()


def state_of(run: Path) -> dict[str, Any]:
    """What a run's checkpoint holds, whole."""
    path = newest_checkpoint(run)
    assert path is not None
    return read_checkpoint(path, lambda path, shape, dtype: torch.empty(shape, dtype=dtype))


def exported(run: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What the student's file says of it, and its weights."""
    path = run / "student.safetensors"
    with safe_open(path, framework="pt") as file:
        return file.metadata(), load_file(path)


def plain(state: Any) -> Any:
    """All of a state but the numbers in its tensors."""
    if isinstance(state, Tensor):
        return "tensor"
    if isinstance(state, dict):
        return {key: plain(value) for key, value in state.items()}
    return [plain(value) for value in state] if isinstance(state, list) else state


@pytest.mark.endurance
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
@pytest.mark.parametrize("name", KILLED)
def test_a_killed_stage_goes_on_to_the_same_bits(name: str, here: Path) -> None:
    """Weights, averages, moments and videos under way, and the exported student."""
    case, words = CASES[name], KILLED[name]
    whole, cut = here / "whole" / name, here / "cut" / name
    with started(case, whole, *words) as undisturbed:
        with started(case, cut, *words) as run:
            reached = run.kill_after_a_checkpoint()
        assert 0 < reached < STEPS and not (cut / "student.safetensors").exists(), "it was killed before its end"
        at_the_kill = state_of(cut)
        with started(case, cut, *words) as run:
            run.finish()
        assert f"resumed at step {reached}" in run.log.read_text()
        undisturbed.finish()

    expected, found = state_of(whole), state_of(cut)
    assert expected["step"] == STEPS and plain(expected) == plain(found)
    assert_same_state(expected, found, within=0)
    (expected_header, expected_weights), (header, weights) = (exported(run) for run in (whole, cut))
    assert header == expected_header
    assert_same_state(expected_weights, weights, within=0)
    # Or else the comparison would know nothing of what the steps after the kill have learnt.
    for network in found["networks"]:
        before, after = (tensors_of(state["networks"][network]["weights"]) for state in (at_the_kill, found))
        assert not any(torch.equal(weight, before[name]) for name, weight in after.items() if weight.any()), network
    if case.stage == "sfpp":
        assert {"latents", "keys", "values"} <= at_the_kill["task"].keys(), "videos were under way"
