"""Bring docs/proof.md up to date with runs and evaluations: `python -m training.proof`, from the repository's root.

training/configs/tiny/Makefile makes both and then calls this. Here are the page's tables, of what evaluations found
(docs/proof/NAME.json) and of what runs cost (docs/proof/runs.json), and its plot over the number of updates.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from cogapp import Cog
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sfpp_core.files import replacing
from sfpp_core.stability.plot import BLUE, BODY_POINTS, DPI, GREY, INK, VERMILION, font

from .config import as_plain, load_config
from .engine.run_folder import CONFIG_NAME
from .evaluation.figures import CHANGE, baseline_of, is_signed
from .evaluation.plots import dress
from .evaluation.report import cell, in_markdown, table, write_json
from .evaluation.results import cluster_mean

PAGE, FOLDER, PICTURES = Path("docs/proof.md"), Path("docs/proof"), Path("docs/media/proof")
RUNS, CONFIGS = Path("runs/tiny/proof"), Path("training/configs/tiny")
"""All from the repository's root."""
RECORDS = "runs.json"
DRAWN_BY_EVALUATIONS = {
    "main/stability.png": "stability.png",
    "main/drift.png": "drift.png",
    "main/truth.png": "truth.png",
    "main/sheet_000.png": "films_bouncing.png",
    "main/sheet_002.png": "films_gliding.png",
    "again/stability.png": "again_stability.png",
    "again/sheet_000.png": "again_films.png",
}
"""Pictures of evaluations, and their names on the page."""
BESIDE_THE_POINT = ("run.", "steps", "stage")
"""Settings that decide where and how fast, and those that have a column of their own."""
PLOTTED = ("stability", "exposure_drift", "hue_drift", "dynamic_degree")
PLOTTED_AT = "50"
"""Seconds."""


def main() -> int:
    """Note the runs, draw what was evaluated, and fill in the tables; exit status as cog's."""
    note_runs()
    PICTURES.mkdir(parents=True, exist_ok=True)
    for drawn, shown in DRAWN_BY_EVALUATIONS.items():
        picture = RUNS / f"evaluation_{drawn}"
        if picture.is_file():
            shutil.copyfile(picture, PICTURES / shown)
    if (FOLDER / "updates.json").is_file():
        plot_updates(PICTURES / "updates.png")
    return Cog().main(["cog", "-r", "-P", "-I", ".", str(PAGE)])


@cache
def report(evaluation: str) -> dict[str, Any]:
    """Read what an evaluation found, as the evaluate stage wrote it."""
    return json.loads((FOLDER / f"{evaluation}.json").read_text(encoding="utf-8"))


def arms_of(evaluation: str) -> list[str]:
    """Name the arms in the order of tables."""
    return [arm["name"] for arm in report(evaluation)["config"]["arms"]]


def by_length(evaluation: str, measure: str, kind: str = "mean", arms: Sequence[str] | None = None) -> str:
    """Tabulate a measure, a row an arm and a column a length. kind: mean, or one of evaluation/figures.py."""
    found = report(evaluation)["measures"][measure]
    rows, arms = found[kind], arms or arms_of(evaluation)
    lengths = list(rows[arms[0]])
    what = f", change since {lengths[0]} s" if kind == CHANGE else ""
    if baseline := baseline_of(kind):
        what = f", less that of `{baseline}`"
    cells = table(rows, arms, lengths, digits=found["digits"], signed=is_signed(kind))
    return f"{_title(found)}{what}:\n\n{cells}"


def against(evaluation: str, arms: Sequence[str], baseline: str, other: str) -> str:
    """Tabulate how much more stable arms are than one of another evaluation of the same prompts."""
    ours, theirs = report(evaluation)["stability_of_films"], report(other)["stability_of_films"][baseline]
    lengths = [length for length in ours[arms[0]] if length in theirs]

    def difference(arm: str, length: str) -> dict[str, Any]:
        mine, other_ones = (np.array(values, dtype=np.float64) for values in (ours[arm][length], theirs[length]))
        return asdict(cluster_mean(mine - other_ones))

    rows = {arm: {length: difference(arm, length) for length in lengths} for arm in arms}
    cells = table(rows, arms, lengths, digits=1, signed=True)
    return f"Visual Stability, less that of `{baseline}`:\n\n{cells}"


def at_length(evaluation: str, length: str, measures: Sequence[str], arms: Sequence[str] | None = None) -> str:
    """Tabulate measures at one length in seconds, a row an arm and a column a measure."""
    found = report(evaluation)["measures"]
    rows = [
        [arm, *(cell(found[name]["mean"][arm][length], digits=found[name]["digits"]) for name in measures)]
        for arm in arms or arms_of(evaluation)
    ]
    return in_markdown([f"at {length} s", *(_title(found[name]) for name in measures)], rows)


def _title(measure: dict[str, Any]) -> str:
    """Return a measure's title; reports of earlier versions say film."""
    return measure["title"].replace("film", "video")


def how(evaluation: str) -> str:
    """Say what an evaluation's figures were measured on, and what makes them again."""
    config, machine = report(evaluation)["config"], report(evaluation)["machine"]
    # Reports of the first machines do not tell the processor's model.
    processor = f", processor {machine['processor']}" if machine.get("processor") else ""
    videos = f"{config['takes']} video{'s' if config['takes'] > 1 else ''}"
    return (
        f"{config['prompts']} held-out prompts, {videos} of each, seed {config['seed']}, "
        f"{config['precision']}, on {machine['device']}{processor}, threads a process: {machine['threads']}, PyTorch "
        f"{machine['torch']} ([configuration and all figures](proof/{evaluation}.json)). Made by "
        f"`make -f {CONFIGS.as_posix()}/Makefile {FOLDER.as_posix()}/{evaluation}.json`."
    )


def note_runs() -> None:
    """Note what the runs on this machine took; those of other machines stay as they were noted."""
    records = FOLDER / RECORDS
    known = json.loads(records.read_text(encoding="utf-8")) if records.is_file() else {}
    records.parent.mkdir(parents=True, exist_ok=True)
    write_json(records, known | collect_runs(RUNS))


def collect_runs(runs: Path) -> dict[str, Any]:
    """Read of each finished run, by name, its stage, its settings, its steps and the median seconds a step.

    Settings are those that differ from the stage's own configuration.
    """
    found = {}
    for path in sorted(runs.glob(f"*/{CONFIG_NAME}")):
        if not (path.parent / "student.safetensors").is_file():
            continue
        config = OmegaConf.to_container(OmegaConf.load(path))
        stage = importlib.import_module(f"training.stages.{config['stage']}")
        usual = _flat(as_plain(load_config(stage.CONFIG, CONFIGS / f"{config['stage']}.yaml")))
        board = EventAccumulator(str(path.parent / "board"))
        board.Reload()
        found[path.parent.name] = {
            "stage": config["stage"],
            "seed": config["seed"],
            "differs": {
                key: value
                for key, value in _flat(config).items()
                if not key.startswith(BESIDE_THE_POINT) and usual.get(key) != value
            },
            "steps": config["steps"],
            "seconds_a_step": round(median(event.value for event in board.Scalars("seconds_per_step")), 2),
        }
    return found


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings by their full names."""
    flat = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def runs_table() -> str:
    """Tabulate the runs, a row each."""
    rows = [
        [
            name,
            run["stage"],
            ", ".join(f"`{key}={value}`" for key, value in run["differs"].items()) or "-",
            str(run["steps"]),
            f"{run['seconds_a_step']:.1f}",
            f"{run['steps'] * run['seconds_a_step'] / 60:.0f}",
        ]
        for name, run in json.loads((FOLDER / RECORDS).read_text(encoding="utf-8")).items()
    ]
    return in_markdown(["run", "stage", "differs in", "updates", "seconds each (median)", "minutes of steps"], rows)


def plot_updates(path: Path) -> None:
    """Plot measures of videos of 50 s over the number of updates, from the student that all began with.

    One panel a measure, one line a method, whose arms are called METHOD_at_UPDATES.
    """
    found, arms = report("updates")["measures"], arms_of("updates")
    (start,), truth = report("updates")["config"]["baselines"], arms[0]
    methods = list(dict.fromkeys(arm.split("_at_")[0] for arm in arms if "_at_" in arm))
    figure = Figure(figsize=(1024 / DPI, 760 / DPI), dpi=DPI, facecolor="white", layout="constrained")
    for measure, axes in zip(PLOTTED, figure.subplots(2, 2).flat, strict=True):
        means = {arm: estimates[PLOTTED_AT] for arm, estimates in found[measure]["mean"].items()}
        axes.axhline(means[truth]["mean"], color=GREY, linestyle=(0, (5, 2)), label="truth, autoencoded")
        for index, method in enumerate(methods):
            names = [arm for arm in arms if arm.startswith(f"{method}_at_")]
            updates = np.array([int(name.split("_at_")[1]) for name in names])
            mean, low, high = ([means[name][key] for name in (start, *names)] for key in ("mean", "low", "high"))
            # On a logarithmic axis the start has no place; it stands left of the first. No interval hides another.
            ticks = np.append(updates[0] / 2, updates)
            places, colour = ticks * (1 + 0.02 * index), (VERMILION, BLUE)[index]
            axes.plot(places, mean, color=colour, marker="o", markersize=4, label=method)
            axes.vlines(places, low, high, color=colour, linewidth=1.2)
        dress(axes, f"{_title(found[measure])}, at {PLOTTED_AT} s", ticks, ["0", *map(str, updates)])
        axes.tick_params(axis="x", labelrotation=45)
        axes.set_xlabel("updates", fontproperties=font(BODY_POINTS), color=INK)
    figure.axes[0].legend(prop=font(BODY_POINTS), frameon=False)
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)


if __name__ == "__main__":
    sys.exit(main())
