"""The proof's page: its runs and evaluations exist, and its tables say what the reports say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.smoke_family import CONFIGS
from training.config import load_config
from training.proof import findings
from training.proof.__main__ import PAGE
from training.stages import evaluate, grpo, self_forcing, sfpp

ROOT = CONFIGS.parents[2]
OVERLAYS = sorted((CONFIGS / "proof").glob("*.yaml"))
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
    config = load_config(evaluate.EvaluateStageConfig, CONFIGS / "evaluate.yaml", more=[overlay])
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


def test_the_page_says_what_was_measured() -> None:
    """Every table of docs/proof.md is what the reports in docs/proof/ make it."""
    assert (ROOT / PAGE).read_text(encoding="utf-8").count("[[[cog") > len(OVERLAYS)
    check = [sys.executable, "-m", "cogapp", "--check", "-P", "-I", ".", str(PAGE)]
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\nrun: python -m training.proof"


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
    stability = {"title": "Visual Stability", "digits": 1, "mean": means, "change_since_shortest": change}
    stability |= {"difference_from_first": difference}
    by_motion = {arm: {"50": {"bounce": 0.104, "left": 1.0}} for arm in means}
    of_videos = {"first": {"5": [[96.0], [96.0], [97.0]], "50": [[90.0], [80.0], [77.0]]}}
    of_videos |= {"second": {"5": [[90.0], [96.0], [97.0]]}}
    report = {
        "stability_of_films": of_videos,
        "config": {"arms": [{"name": "first"}, {"name": "second"}], "prompts": 4, "takes": 2, "seed": 21}
        | {"precision": "bfloat16"},
        "machine": {"device": "x86_64", "threads": 1, "torch": "2.11.0"},
        "measures": {"stability": stability, "by_attribute": {"dynamic_degree": {"motion": by_motion}}},
    }
    (tmp_path / "small.json").write_text(json.dumps(report))
    monkeypatch.setattr(findings, "FOLDER", tmp_path)
    findings.report.cache_clear()


@pytest.mark.usefixtures("small_report")
def test_tables_say_what_the_report_says() -> None:
    rows = findings.by_length("small", "stability").splitlines()
    assert rows[0] == "Visual Stability:"
    assert rows[2:] == [
        "| arm | 5 s | 50 s |",
        "| --- | --- | --- |",
        "| first | 96.0 [95.0, 97.0] | 80.0 [70.0, 90.0] |",
        "| second | 96.0 | - |",
    ]
    change = findings.by_length("small", "stability", "change_since_shortest").splitlines()
    assert change[0] == "Visual Stability, change since 5 s:"
    assert change[4].endswith("| -16.0 [-20.0, -10.0] |")
    difference = findings.by_length("small", "stability", "difference_from_first", ["second"]).splitlines()
    assert difference[0] == "Visual Stability, less that of `first`:"
    assert difference[2:] == ["| arm | 5 s |", "| --- | --- |", "| second | +4.0 |"]
    assert findings.at_length("small", "50", ["stability"], ["first"]).splitlines() == [
        "| at 50 s | Visual Stability |",
        "| --- | --- |",
        "| first | 80.0 [70.0, 90.0] |",
    ]
    assert findings.by_attribute("small", "dynamic_degree", "motion", "50").splitlines() == [
        "| at 50 s | bounce | left |",
        "| --- | --- | --- |",
        "| first | 10 | 100 |",
        "| second | 10 | 100 |",
    ]
    against = findings.against("small", ["first"], "second", "small").splitlines()
    assert against[:3] == ["Visual Stability, video so far, less that of `second`:", "", "| arm | 5 s |"]
    assert against[4].startswith("| first | +2.0 [+0.0, ")
    assert "4 held-out prompts, 2 videos of each, seed 21, bfloat16, on x86_64, threads" in findings.how("small")


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
    report = json.loads((findings.FOLDER / "small.json").read_text())
    report["machine"] |= machine
    (findings.FOLDER / "small.json").write_text(json.dumps(report))
    assert told in findings.how("small")
