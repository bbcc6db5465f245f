"""The recipe of the built-in family and of its proof makes what is asked for, and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers.smoke_family import CONFIGS

NEEDED = {
    "docs/proof/long.json": ["runs/tiny/proof/sfpp_seed18"],
    "docs/proof/remedies.json": ["runs/tiny/proof/self_forcing_seed18"],
    "docs/proof/main.json": [f"runs/tiny/proof/{run}" for run in ("self_forcing", "self_forcing_near", "sfpp")],
}


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize("report", NEEDED)
def test_an_evaluation_trains_what_it_judges(report: str, tmp_path: Path) -> None:
    """In a folder where nothing is there yet."""
    shutil.copytree(CONFIGS, tmp_path / "training" / "configs" / "tiny")
    command = ["make", "-n", "-f", "training/configs/tiny/Makefile", report]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    folders = re.findall(r" -m training .* run\.out=(runs/tiny/proof/(?!evaluation_)\S+)", printed)
    assert sorted(folders) == NEEDED[report]
