"""The proof's page: its runs and evaluations exist, and its tables say what the reports say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from torch.utils.tensorboard import SummaryWriter

from tests.helpers.smoke_family import CONFIGS
from training import proof
from training.config import as_plain, load_config
from training.engine.run_folder import CONFIG_NAME
from training.stages import evaluate, grpo, self_forcing, sfpp

ROOT = CONFIGS.parents[2]
OVERLAYS = sorted((CONFIGS / "proof").glob("*.yaml"))
REPORTS = sorted(path for path in (ROOT / proof.FOLDER).glob("*.json") if path.name != proof.RECORDS)
KEYS = ("mean", "low", "high")
ESTIMATE = re.compile(r"([+-]?[\d.]+)(?: points)? \[([+-]?[\d.]+), ([+-]?[\d.]+)\]")
ARM = re.compile(r"\$\(eval \$\(call arm,(\w+),(\w+)(?:,([^)]*))?\)")
RUNS = {name: (stage, words.split()) for name, stage, words in ARM.findall((CONFIGS / "Makefile").read_text())}
STAGES = {"self_forcing": self_forcing, "sfpp": sfpp, "grpo": grpo}


@pytest.mark.parametrize("name", RUNS)
def test_every_run_of_the_makefile_has_a_configuration_that_loads(name: str) -> None:
    stage, words = RUNS[name]
    load_config(STAGES[stage].CONFIG, CONFIGS / f"{stage}.yaml", words)


@pytest.mark.parametrize("stage", ["self_forcing", "sfpp"])
def test_the_recipe_begins_with_what_ships(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(STAGES[stage].CONFIG, CONFIGS / f"{stage}.yaml")
    named = (config.init, config.teacher, config.vae, config.conditioning.text_encoder)
    assert all(Path(path).is_file() for path in named)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_what_an_evaluation_compares_is_made_by_the_makefile(overlay: Path) -> None:
    config = load_config(evaluate.CONFIG, CONFIGS / "evaluate.yaml", more=[overlay])
    for arm in config.arms:
        if arm.weights is None or "/proof/" not in arm.weights:
            continue
        run, *rest = Path(arm.weights).relative_to("runs/tiny/proof").parts
        assert run in RUNS
        if rest[0] == "steps":
            stage, words = RUNS[run]
            trained = load_config(STAGES[stage].CONFIG, CONFIGS / f"{stage}.yaml", words)
            updates = int(rest[1])
            assert 0 < updates <= trained.steps and updates % trained.run.export_every == 0


def test_finished_runs_are_noted_with_what_they_differ_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = as_plain(load_config(sfpp.CONFIG, CONFIGS / "sfpp.yaml", ["seed=18", "steps=420", "run.max_minutes=9"]))
    for name in ("finished", "going_on"):
        (tmp_path / name).mkdir()
        OmegaConf.save(OmegaConf.create({"stage": "sfpp", **config}), tmp_path / name / CONFIG_NAME)
    (tmp_path / "finished" / "student.safetensors").touch()
    with SummaryWriter(str(tmp_path / "finished" / "board")) as board:
        for step, seconds in enumerate((9.0, 2.0, 1.0)):
            board.add_scalar("seconds_per_step", seconds, step)
    noted = {"stage": "sfpp", "seed": 18, "differs": {"seed": 18}, "steps": 420, "seconds_a_step": 2.0}
    assert proof.collect_runs(tmp_path) == {"finished": noted}


def test_the_page_says_what_was_measured() -> None:
    """Every table of docs/proof.md is what the reports in docs/proof/ make it."""
    assert (ROOT / proof.PAGE).read_text(encoding="utf-8").count("[[[cog") > len(REPORTS)
    check = [sys.executable, "-m", "cogapp", "--check", "-P", "-I", ".", str(proof.PAGE)]
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\nrun: python -m training.proof"


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_every_report_is_of_an_evaluation_that_a_command_makes_and_is_on_the_page(path: Path) -> None:
    assert path.stem in {overlay.stem for overlay in OVERLAYS}
    assert f'proof.how("{path.stem}")' in (ROOT / proof.PAGE).read_text(encoding="utf-8")


def test_intervals_in_the_text_are_those_of_the_reports() -> None:
    """Differences may be told the other way round."""
    page = (ROOT / proof.PAGE).read_text(encoding="utf-8")
    tables, text = ("\n".join(lines) for lines in _tables_and_text(page))
    found = {tuple(map(float, figures)) for figures in ESTIMATE.findall(tables)}
    for path in REPORTS:
        for measure in json.loads(path.read_text(encoding="utf-8"))["measures"].values():
            found |= {tuple(round(each[key], measure["digits"]) for key in KEYS) for each in _estimates(measure)}
    told = {tuple(map(float, figures)) for figures in ESTIMATE.findall(text)}
    assert len(told) > 15
    assert [each for each in told if each not in found and (-each[0], -each[2], -each[1]) not in found] == []


def _tables_and_text(page: str) -> tuple[list[str], list[str]]:
    lines = page.splitlines()
    return [line for line in lines if line.startswith("|")], [line for line in lines if not line.startswith("|")]


def _estimates(found: Any) -> Iterator[dict[str, float]]:
    """All means that have an interval, however deep."""
    if isinstance(found, dict) and set(KEYS) <= found.keys() and found["low"] is not None:
        yield found
    elif isinstance(found, dict):
        for part in found.values():
            yield from _estimates(part)


def estimate(mean: float | None, low: float | None = None, high: float | None = None) -> dict[str, float | None]:
    return {"mean": mean, "low": low, "high": high}


@pytest.fixture
def small_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    means = {
        "first": {"5": estimate(96.04, 95.0, 97.0), "50": estimate(80.0, 70.0, 90.0)},
        "second": {"5": estimate(95.96), "50": estimate(None)},
    }
    change = {arm: {"5": estimate(0.0), "50": estimate(-16.04, -20.0, -10.0)} for arm in means}
    difference = {"first": {"5": estimate(0.0)}, "second": {"5": estimate(4.0)}}
    stability = {"title": "Visual Stability, film so far", "digits": 1, "mean": means, "change_since_shortest": change}
    stability |= {"difference_from_first": difference}
    of_films = {"first": {"5": [[96.0], [96.0], [97.0]], "50": [[90.0], [80.0], [77.0]]}}
    of_films |= {"second": {"5": [[90.0], [96.0], [97.0]]}}
    report = {
        "stability_of_films": of_films,
        "config": {"arms": [{"name": "first"}, {"name": "second"}], "prompts": 4, "takes": 2, "seed": 21}
        | {"precision": "bfloat16"},
        "machine": {"device": "x86_64", "threads": 1, "torch": "2.11.0"},
        "measures": {"stability": stability},
    }
    (tmp_path / "small.json").write_text(json.dumps(report))
    monkeypatch.setattr(proof, "FOLDER", tmp_path)
    proof.report.cache_clear()


@pytest.mark.usefixtures("small_report")
def test_tables_say_what_the_report_says() -> None:
    rows = proof.by_length("small", "stability").splitlines()
    assert rows[0] == "Visual Stability, video so far:"
    assert rows[2:] == [
        "| arm | 5 s | 50 s |",
        "| --- | --- | --- |",
        "| first | 96.0 [95.0, 97.0] | 80.0 [70.0, 90.0] |",
        "| second | 96.0 | - |",
    ]
    change = proof.by_length("small", "stability", "change_since_shortest").splitlines()
    assert change[0] == "Visual Stability, video so far, change since 5 s:"
    assert change[4].endswith("| -16.0 [-20.0, -10.0] |")
    difference = proof.by_length("small", "stability", "difference_from_first", ["second"]).splitlines()
    assert difference[0] == "Visual Stability, video so far, less that of `first`:"
    assert difference[2:] == ["| arm | 5 s |", "| --- | --- |", "| second | +4.0 |"]
    assert proof.at_length("small", "50", ["stability"], ["first"]).splitlines() == [
        "| at 50 s | Visual Stability, video so far |",
        "| --- | --- |",
        "| first | 80.0 [70.0, 90.0] |",
    ]
    against = proof.against("small", ["first"], "second", "small").splitlines()
    assert against[:3] == ["Visual Stability, less that of `second`:", "", "| arm | 5 s |"]
    assert against[4].startswith("| first | +2.0 [+0.0, ")
    assert "4 held-out prompts, 2 videos of each, seed 21, bfloat16, on x86_64, threads" in proof.how("small")


@pytest.mark.usefixtures("small_report")
@pytest.mark.parametrize(
    ("machine", "told"),
    [
        ({"processor": "AMD EPYC 9R14"}, "on x86_64, processor AMD EPYC 9R14, threads a process: 1"),
        ({"device": "NVIDIA H200", "processor": "AMD EPYC 9R14"}, "on NVIDIA H200, processor AMD EPYC 9R14, threads"),
        ({"processor": None}, "on x86_64, threads a process: 1"),
    ],
)
def test_figures_are_told_with_their_machine(machine: dict[str, str | None], told: str) -> None:
    report = json.loads((proof.FOLDER / "small.json").read_text())
    report["machine"] |= machine
    (proof.FOLDER / "small.json").write_text(json.dumps(report))
    assert told in proof.how("small")
