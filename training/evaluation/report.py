"""The evaluation's findings in files: report.json with everything, report.md to read."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from sfpp_core.files import replacing

from ..data.scenes import ATTRIBUTES
from .figures import CHANGE, MULTIPLE, difference_from, is_signed
from .results import Estimate, Results
from .truth import PromptMetrics

NO_FIGURE = "-"
DISTANCE_DIGITS = 2


def findings(
    results: Results, baselines: Sequence[str], prompt_metrics: PromptMetrics | None, truth: str | None
) -> dict[str, Any]:
    """Every estimate by measure, arm and length, JSON.

    baselines: names of the arms that differences are taken from.
    truth: name of the arm that dynamic degrees are told as a multiple of; None for none.
    """
    arms, lengths = results.arms, results.lengths

    def table(estimate: Callable[[str, str], Estimate]) -> dict[str, dict[str, Any]]:
        return {arm: {length: estimate(arm, length).to_json() for length in lengths} for arm in arms}

    found: dict[str, Any] = {}
    for measure in results.measures:
        found[measure.name] = {
            "title": measure.title,
            "digits": measure.digits,
            "mean": table(lambda arm, length, of=measure: results.mean(of, arm, length)),
            CHANGE: table(lambda arm, length, of=measure: results.change(of, arm, length)),
        }
        for baseline in baselines:
            found[measure.name][difference_from(baseline)] = table(
                lambda arm, length, of=measure, other=baseline: results.difference(of, arm, other, length)
            )
        if truth and measure.name.startswith("dynamic_degree"):
            found[measure.name][MULTIPLE] = table(lambda arm, length, of=measure: results.ratio(of, arm, truth, length))
    if prompt_metrics:
        truths = [prompt_metrics.truth(prompt).features.double().numpy() for prompt in range(results.shape[0])]
        found["frechet_distance"] = {
            "title": "Frechet distance from the truth, last 5 s",
            "digits": DISTANCE_DIGITS,
            "mean": table(lambda arm, length: results.distance(truths, arm, length)),
        }
        found["by_attribute"] = _by_attribute(results, prompt_metrics)
    return found


def _by_attribute(results: Results, prompt_metrics: PromptMetrics) -> dict[str, Any]:
    """Bias of luminance, error of colour and dynamic degree, for each value of each attribute."""
    return {
        field: {
            name: {
                arm: {
                    length: results.by_attribute(
                        lambda prompt, of=name: str(getattr(prompt_metrics.truth(prompt).attributes, of)),
                        field,
                        arm,
                        length,
                    )
                    for length in results.lengths
                }
                for arm in results.arms
            }
            for name in ATTRIBUTES
        }
        for field in ("luminance_error", "colour_error", "dynamic_degree")
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def write_markdown(path: Path, found: dict[str, Any], results: Results, baselines: Sequence[str], heading: str) -> None:
    """Write the tables: a row an arm, a column a length, means with their 95 % intervals."""
    parts = [f"# {heading}", _preface(results, baselines)]
    for name, of_measure in found.items():
        if name == "by_attribute":
            continue
        for kind, label in _kinds(baselines).items():
            if kind in of_measure and (kind == "mean" or name in HEADLINES):
                title = f"## {of_measure['title']}{label}"
                digits = 3 if kind == MULTIPLE else of_measure["digits"]
                rows = table(of_measure[kind], results.arms, results.lengths, digits=digits, signed=is_signed(kind))
                parts.append(f"{title}\n\n{rows}")
    with replacing(path) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


HEADLINES = ("stability", "stability_end", "dynamic_degree", "dynamic_degree_end")
"""Measures whose changes and differences are told in report.md; those of all are in report.json."""


def _kinds(baselines: Sequence[str]) -> dict[str, str]:
    return {
        "mean": "",
        CHANGE: ", change since the shortest length",
        **{difference_from(baseline): f", difference from {baseline}" for baseline in baselines},
        MULTIPLE: ", as a multiple of the truth's",
    }


def _preface(results: Results, baselines: Sequence[str]) -> str:
    prompts, takes = results.shape
    return (
        f"{prompts} prompts, {takes} videos of each, the same seeds in every arm. Columns are seconds of video; in "
        "brackets 95 % confidence intervals over prompts (bootstrap of prompts and of videos within them; of Frechet "
        f"distances, jackknife over prompts). Differences are of the same prompt and seed, from "
        f"{', '.join(baselines)}. What each figure is: training/evaluation/figures.py and prompt_metrics.py."
    )


def table(
    rows: dict[str, dict[str, Any]], arms: Sequence[str], lengths: Sequence[str], *, digits: int, signed: bool = False
) -> str:
    """A row an arm, a column a length, of estimates as report.json has them; Markdown."""
    cells = [[arm, *(cell(rows[arm][length], digits=digits, signed=signed) for length in lengths)] for arm in arms]
    return in_markdown(["arm", *(f"{length} s" for length in lengths)], cells)


def in_markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))


def cell(estimate: dict[str, Any], *, digits: int, signed: bool = False) -> str:
    """An estimate with its interval."""
    if estimate["mean"] is None:
        return NO_FIGURE
    number = f"{{:{'+' if signed else ''}.{digits}f}}".format
    if estimate["low"] is None:
        return number(estimate["mean"])
    return f"{number(estimate['mean'])} [{number(estimate['low'])}, {number(estimate['high'])}]"


CPUINFO: Final = Path("/proc/cpuinfo")
"""Where Linux tells its processors."""


def machine_of(device: torch.device) -> dict[str, Any]:
    """Return what decides times and last digits, JSON. device: where networks run."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def processor(cpuinfo: Path = CPUINFO) -> str | None:
    """The processor's model; None where nothing tells it."""
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return " ".join(value.split())
    return platform.processor() or None
