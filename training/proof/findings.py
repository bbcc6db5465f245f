"""Tables of docs/proof.md, from the reports of its evaluations in docs/proof/."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation.figures import CHANGE, MULTIPLE, baseline_of, is_signed
from ..evaluation.report import cell, in_markdown, table
from ..evaluation.results import cluster_mean

FOLDER = Path("docs/proof")
"""From the repository's root."""


@cache
def report(evaluation: str) -> dict[str, Any]:
    """Return what an evaluation found, as the evaluate stage wrote it."""
    return json.loads((FOLDER / f"{evaluation}.json").read_text(encoding="utf-8"))


def arms_of(evaluation: str) -> list[str]:
    """In the order of tables."""
    return [arm["name"] for arm in report(evaluation)["config"]["arms"]]


def by_length(evaluation: str, measure: str, kind: str = "mean", arms: Sequence[str] | None = None) -> str:
    """A row an arm, a column a length. kind: mean, or one of evaluation/kinds.py."""
    found = report(evaluation)["measures"][measure]
    rows, arms = found[kind], arms or arms_of(evaluation)
    digits = 2 if kind == MULTIPLE else found["digits"]
    lengths = list(rows[arms[0]])
    cells = table(rows, arms, lengths, digits=digits, signed=is_signed(kind))
    return f"{found['title']}{_in_words(kind, lengths)}:\n\n{cells}"


def _in_words(kind: str, lengths: Sequence[str]) -> str:
    if kind == CHANGE:
        return f", change since {lengths[0]} s"
    if kind == MULTIPLE:
        return ", as a multiple of the truth's"
    return f", less that of `{baseline}`" if (baseline := baseline_of(kind)) else ""


def against(evaluation: str, arms: Sequence[str], baseline: str, other: str) -> str:
    """How much more stable arms are than an arm of another evaluation of the same prompts, at the lengths of both."""
    videos, theirs = report(evaluation)["stability_of_films"], report(other)["stability_of_films"][baseline]
    lengths = [length for length in videos[arms[0]] if length in theirs]
    rows = {
        arm: {
            length: cluster_mean(_videos(videos[arm][length]) - _videos(theirs[length])).to_json() for length in lengths
        }
        for arm in arms
    }
    cells = table(rows, arms, lengths, digits=1, signed=True)
    return f"Visual Stability, video so far, less that of `{baseline}`:\n\n{cells}"


def _videos(values: list[list[float | None]]) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)


def at_length(evaluation: str, length: str, measures: Sequence[str], arms: Sequence[str] | None = None) -> str:
    """A row an arm, a column a measure, at one length in seconds."""
    found = report(evaluation)["measures"]
    rows = [
        [arm, *(cell(found[name]["mean"][arm][length], digits=found[name]["digits"]) for name in measures)]
        for arm in arms or arms_of(evaluation)
    ]
    return in_markdown([f"at {length} s", *(found[name]["title"] for name in measures)], rows)


def by_attribute(evaluation: str, field: str, attribute: str, length: str) -> str:
    """A row an arm, a column a value of what prompts ask for, in percent, at one length in seconds."""
    found = report(evaluation)["measures"]["by_attribute"][field][attribute]
    arms = arms_of(evaluation)
    values = list(found[arms[0]][length])
    rows = [[arm, *(f"{100 * found[arm][length][value]:.0f}" for value in values)] for arm in arms]
    return in_markdown([f"at {length} s", *values], rows)


def how(evaluation: str) -> str:
    """Return what an evaluation's figures were measured on.

    The report has its configuration, whether or not that is still one of those in training/configs/.
    """
    config, machine = report(evaluation)["config"], report(evaluation)["machine"]
    # Reports of the first machines do not tell the processor's model.
    processor = f", processor {machine['processor']}" if machine.get("processor") else ""
    videos = f"{config['takes']} video{'s' if config['takes'] > 1 else ''}"
    return (
        f"{config['prompts']} held-out prompts, {videos} of each, seed {config['seed']}, "
        f"{config['precision']}, on {machine['device']}{processor}, threads a process: {machine['threads']}, PyTorch "
        f"{machine['torch']} ([configuration and all figures](proof/{evaluation}.json))."
    )
