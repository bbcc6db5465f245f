"""Every stage by two processes is the stage by one.

Two processes hold a batch in two parts, and so does one process with accumulate=2. Either way a part is computed alike
and the two gradients are added, so weights, moments and videos under way are equal bit for bit. Two things are not, and
the cases here keep them out of the way: clipping, because the norm of a sharded gradient is summed in another order,
and parts that go backward several times, because one process then adds their gradients in a row.

Against one process that takes the batch as a whole, weights agree within a millionth: products of matrices of other
shapes round otherwise. AdamW divides a gradient by its own size, so where a gradient is nothing but rounding the update
is too, and as large as any. The learning rate of 5e-6 keeps that below a millionth; a gradient of half the batch moves
weights by twenty times as much.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.helpers.line_task import assert_same_state
from tests.helpers.metrics import logged
from tests.helpers.stage_cases import CASES, FINISHED, TRAINED, run_all, write_files
from training.__main__ import STAGES
from training.engine.checkpoint import read_checkpoint


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all files and runs lie."""
    folder = tmp_path_factory.mktemp("here")
    write_files(folder)
    return folder


Runner = Callable[[str], Path]
"""Runs all cases, unless that was done; the folder of one's run."""


@pytest.fixture(scope="module")
def by_one(here: Path) -> Runner:
    """By one process, with all others; stages that train run a second time, their batches in two parts."""
    commands: dict[Path, list[str]] = {}

    def add(name: str) -> None:
        for needed in CASES[name].needs:
            add(needed)
        commands[here / "one" / name] = CASES[name].command(here / "one" / name)

    def run(name: str) -> Path:
        if not commands:
            for each in CASES:
                add(each)
            for each, case in TRAINED.items():
                out = here / "parts" / each
                commands[out] = case.command(out, "accumulate=2")
            run_all(*commands.values(), count=1)
        return here / "one" / name

    return run


@pytest.fixture(scope="module")
def by_two(here: Path, by_one: Runner) -> Runner:
    """By two processes, together with all others of its kind, which is much faster than one after the other."""

    def run(name: str) -> Path:
        out = here / "two" / name
        if not out.exists():
            cases = TRAINED if name in TRAINED else FINISHED
            # They read what others have made by one process.
            by_one(name)
            run_all(*(case.command(here / "two" / other) for other, case in cases.items()), count=2)
        return out

    return run


def state_of(run: Path) -> dict[str, Any]:
    """What a run's checkpoint holds, whole."""
    (path,) = run.glob("checkpoint-*")
    return read_checkpoint(path, lambda path, shape, dtype: torch.empty(shape, dtype=dtype))


def assert_same_weights(left: Path, right: Path) -> None:
    """Two runs have learnt the same within a millionth."""
    mine, theirs = (
        {name: [network["weights"], network["average"]] for name, network in state_of(run)["networks"].items()}
        for run in (left, right)
    )
    assert_same_state(mine, theirs, within=1e-6)


def assert_same_bits(left: Path, right: Path) -> None:
    """Two runs are in the same state, but for the norms of their gradients."""
    states = [state_of(run) for run in (left, right)]
    norms = [{name: network.pop("norms") for name, network in state["networks"].items()} for state in states]
    assert_same_state(*states, within=0)
    for name, norm in norms[0].items():
        torch.testing.assert_close(norms[1][name], norm, atol=0, rtol=1e-5, msg=name)


def assert_same_weight_files(left: Path, right: Path) -> None:
    """Two runs have written the same tensors."""
    names = sorted(path.name for path in left.glob("*.safetensors"))
    assert names == sorted(path.name for path in right.glob("*.safetensors"))
    for name in names:
        assert_same_state(load_file(left / name), load_file(right / name), within=0)


def told_by(run: Path) -> dict[str, Any]:
    """What the files of a run say of what is in them, and its report of videos, but for where and how fast."""
    told: dict[str, Any] = {}
    for path in run.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            told[path.name] = file.metadata()
    for path in run.glob("report.json"):
        report = json.loads(path.read_text())
        told[path.name] = report.get("measures", report)
    return told


def test_no_stage_is_left_out() -> None:
    assert {case.stage for case in CASES.values()} == STAGES.keys()


@pytest.mark.parametrize("name", FINISHED)
def test_two_processes_make_what_one_makes(name: str, by_one: Runner, by_two: Runner) -> None:
    alone, together = by_one(name), by_two(name)
    assert told_by(alone) == told_by(together) != {}
    assert_same_weight_files(alone, together)


@pytest.mark.parametrize("name", TRAINED)
def test_two_processes_train_as_one(name: str, here: Path, by_one: Runner, by_two: Runner) -> None:
    whole, parts, together = by_one(name), here / "parts" / name, by_two(name)
    assert_same_bits(parts, together)
    assert_same_weight_files(parts, together)
    assert_same_weights(whole, together)


@pytest.mark.parametrize("name", [name for name, case in TRAINED.items() if case.stage == "sfpp"])
def test_long_rollouts_are_judged_in_mid_video_too(name: str, by_one: Runner) -> None:
    """Or else the comparison above knows nothing of how a video is rolled out to its window."""
    start, then = logged(by_one(name))["window_start"]
    assert start == 0 < then


@pytest.mark.parametrize(
    ("name", "first", "then"),
    [
        ("sfpp by the chunk", (2, 1), (1, 1)),
        ("sfpp by the chunk", (1, 4), (2, 1)),
        ("teacher", (1, 1), (2, 2)),
    ],
)
def test_a_run_goes_on_in_another_number_of_processes_and_parts(
    name: str, first: tuple[int, int], then: tuple[int, int], here: Path, by_one: Runner
) -> None:
    out = here / f"by {first}, then by {then}" / name
    (first_count, first_parts), (count, parts) = first, then
    command = CASES[name].command(out, "run.checkpoint_activations=true")
    run_all([*command, f"accumulate={first_parts}", "run.max_minutes=1e-9"], count=first_count)
    assert state_of(out)["step"] == 1
    run_all([*command, f"accumulate={parts}"], count=count)
    assert_same_weights(by_one(name), out)
