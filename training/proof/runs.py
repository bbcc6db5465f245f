"""What the runs of the proof were told and what they took, kept in docs/proof/runs.json."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from statistics import median
from typing import Any

from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ..config import as_plain, load_config
from ..engine.run_folder import CONFIG_NAME
from ..evaluation.report import in_markdown, write_json
from .findings import FOLDER

RUNS = Path("runs/tiny/proof")
CONFIGS = Path(__file__).parents[1] / "configs" / "tiny"
RECORDS = "runs.json"
BESIDE_THE_POINT = ("run.", "steps", "stage")
"""Settings that decide where and how fast, and those that are told for themselves."""


def collect(runs: Path) -> dict[str, Any]:
    """Return what is known of each finished run, by its name.

    Its stage, what differs from the stage's own configuration, its steps, and the median of the seconds a step took.
    """
    found = {}
    for path in sorted(runs.glob(f"*/{CONFIG_NAME}")):
        folder = path.parent
        if not (folder / "student.safetensors").is_file():
            continue
        config = OmegaConf.to_container(OmegaConf.load(path))
        stage = importlib.import_module(f"training.stages.{config['stage']}")
        usual = as_plain(load_config(stage.CONFIG, CONFIGS / f"{config['stage']}.yaml"))
        found[folder.name] = {
            "stage": config["stage"],
            "seed": config["seed"],
            "differs": _differences(usual, config),
            "steps": config["steps"],
            "seconds_a_step": round(_seconds_a_step(folder), 2),
        }
    return found


def write() -> None:
    """Note what the runs on this machine took; those of other machines stay as they were noted."""
    records = FOLDER / RECORDS
    known = json.loads(records.read_text(encoding="utf-8")) if records.is_file() else {}
    records.parent.mkdir(parents=True, exist_ok=True)
    write_json(records, known | collect(RUNS))


def runs_table(folder: str = "") -> str:
    """A row a run; folder: of docs/proof/, where earlier ones are kept."""
    rows = [
        [
            name,
            run["stage"],
            ", ".join(f"`{key}={value}`" for key, value in run["differs"].items()) or "-",
            str(run["steps"]),
            f"{run['seconds_a_step']:.1f}",
            f"{run['steps'] * run['seconds_a_step'] / 60:.0f}",
        ]
        for name, run in json.loads((FOLDER / folder / RECORDS).read_text(encoding="utf-8")).items()
    ]
    return in_markdown(["run", "stage", "differs in", "updates", "seconds each (median)", "minutes of steps"], rows)


def _differences(usual: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run, by their full names, that its stage's configuration sets otherwise."""
    before, after = _flat(usual), _flat(config)
    return {
        key: value for key, value in after.items() if not key.startswith(BESIDE_THE_POINT) and before.get(key) != value
    }


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _seconds_a_step(folder: Path) -> float:
    board = EventAccumulator(str(folder / "board"))
    board.Reload()
    return median(event.value for event in board.Scalars("seconds_per_step"))
