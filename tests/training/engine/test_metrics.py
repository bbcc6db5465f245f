"""The copy of a board elsewhere: refused in time where it cannot be made, and told where to write."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers.line_task import LineTask, fit, make_config, paused
from tests.helpers.stage_cases import CASES
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


class Service(ModuleType):
    """What would send it all away."""

    def init(self, *, dir: Path, name: str, **told: object) -> None:
        self.told = {"name": name, "found": dir.is_dir(), **told}


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    service = Service("wandb")
    monkeypatch.setitem(sys.modules, "wandb", service)
    return service


def told_of(service: Service, out: Path) -> dict[str, object]:
    """What it is told of the next piece of a run into a folder."""
    config = paused(make_config(out))
    fit(LineTask(config), replace(config, run=replace(config.run, wandb="films")))
    return service.told


def test_the_copy_of_a_new_run_has_a_folder_to_write_to(tmp_path: Path, service: Service) -> None:
    told = told_of(service, tmp_path / "line")
    assert told["found"]
    assert (told["project"], told["name"]) == ("films", "line")


def test_a_run_that_goes_on_is_the_same_there_and_another_one_of_the_same_name_is_not(
    tmp_path: Path, service: Service
) -> None:
    first, again, other = (
        told_of(service, tmp_path / folder / "line")["id"] for folder in ("here", "here", "elsewhere")
    )
    assert first == again != other
