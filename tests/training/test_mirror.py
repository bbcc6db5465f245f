"""The copy of a board elsewhere: refused in time where it cannot be made, and told where to write."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from tests.training.line_task import LineTask, fit, make_config
from tests.training.stage_cases import CASES
from training.__main__ import main


def test_a_copy_that_cannot_be_made_is_refused_before_anything_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """None of the files that the command names is there, which would be said next."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    out = tmp_path / "one" / "self_forcing"
    assert main(CASES["self_forcing"].command(out, "run.wandb=films")) == 2
    assert "Weights & Biases is not installed; pip install wandb, or write run.wandb=null" in caplog.text
    assert not out.exists()


def test_the_copy_of_a_new_run_has_a_folder_to_write_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Service(ModuleType):
        """What would send it all away."""

        def init(self, *, dir: Path, name: str, **told: object) -> None:
            self.told = {"name": name, "found": dir.is_dir(), **told}

    service = Service("wandb")
    monkeypatch.setitem(sys.modules, "wandb", service)
    config = make_config(tmp_path / "line")
    fit(LineTask(config), replace(config, run=replace(config.run, wandb="films")))
    assert service.told["found"]
    assert (service.told["project"], service.told["name"], service.told["id"]) == ("films", "line", "line")
