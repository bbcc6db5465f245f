"""scripts/setup on a small stand-in for the repository: two packages in place of a hundred, all else as it is."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools import browser

ROOT = Path(__file__).resolve().parents[2]

PYPROJECT = """
[project]
name = "stand-in"
version = "1"
[project.optional-dependencies]
dev = ["iniconfig"]
"""


class Checkout:
    """A folder with the real set-up scripts and a ComfyUI whose only requirement is `packaging`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = folder / ".venv"
        self.comfyui = folder / "ComfyUI"
        (folder / "scripts").mkdir()
        (folder / "tools").mkdir()
        for name in ("scripts/setup", "scripts/constraints.txt", "tools/setup_environment.py"):
            shutil.copy(ROOT / name, folder / name)
        (folder / "pyproject.toml").write_text(PYPROJECT)
        self.comfyui.mkdir()
        (self.comfyui / "main.py").touch()
        (self.comfyui / "requirements.txt").write_text("packaging\n")

    def start(self, **variables: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "COMFYUI_DIR": str(self.comfyui), "PYTHON": sys.executable}
        environment.pop("SFPP_VENV", None)
        environment.update(variables)
        return subprocess.Popen(
            [self.folder / "scripts" / "setup"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def setup(self, **variables: str) -> tuple[int, str]:
        process = self.start(**variables)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    def can_import(self, module: str) -> bool:
        return subprocess.run([self.environment / "bin" / "python", "-c", f"import {module}"]).returncode == 0


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """One checkout, set up once; the tests below change it and set it up again."""
    checkout = Checkout(tmp_path_factory.mktemp("checkout"))
    checkout.environment.mkdir()  # an empty folder is as good as none
    status, output = checkout.setup()
    assert status == 0, output
    return checkout


def test_environment_has_the_requirements_of_comfyui_and_of_the_pack(checkout: Checkout):
    assert checkout.can_import("packaging") and checkout.can_import("iniconfig")


def test_running_again_does_nothing_and_is_quick(checkout: Checkout):
    started = time.monotonic()
    status, output = checkout.setup()
    assert status == 0
    assert [line for line in output.splitlines() if "ready in" not in line] == []
    assert time.monotonic() - started < 5


def test_changed_requirements_are_installed_on_top(checkout: Checkout):
    (checkout.comfyui / "requirements.txt").write_text("packaging\npluggy\n")
    status, output = checkout.setup()
    assert status == 0, output
    assert checkout.can_import("pluggy")
    assert "making a virtual environment" not in output


def test_two_at_once_wait_for_each_other(checkout: Checkout):
    (checkout.comfyui / "requirements.txt").write_text("packaging\neinops\n")
    outputs = [process.communicate(timeout=300)[0] for process in (checkout.start(), checkout.start())]
    assert sum("installing packages" in output for output in outputs) == 1, outputs
    assert all("ready in" in output for output in outputs), outputs
    assert checkout.can_import("einops")


@pytest.mark.endurance
def test_killed_half_way_is_started_over(checkout: Checkout):
    (checkout.comfyui / "requirements.txt").write_text("packaging\nsympy\n")
    leftover = checkout.environment / "leftover-of-a-broken-install"
    leftover.mkdir()
    process = checkout.start()
    assert any("installing packages" in line for line in process.stdout)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    status, output = checkout.setup()
    assert status == 0, output
    assert not leftover.exists()
    assert checkout.can_import("sympy")


def test_wrong_comfyui_folder_is_named(checkout: Checkout):
    status, output = checkout.setup(COMFYUI_DIR=str(checkout.folder))
    assert status == 1
    assert str(checkout.folder) in output and "main.py" in output


@pytest.mark.parametrize("at_its_default_place", [False, True])
def test_a_folder_that_it_did_not_make_is_left_alone(tmp_path: Path, at_its_default_place: bool):
    checkout = Checkout(tmp_path)
    theirs = checkout.environment if at_its_default_place else tmp_path / "their environment"
    kept = theirs / "lib" / "of somebody else"
    kept.mkdir(parents=True)
    status, output = checkout.setup(**({} if at_its_default_place else {"SFPP_VENV": str(theirs)}))
    assert status == 1 and f"{theirs} was not made by this script; move it away" in output
    assert [*theirs.rglob("*")] == [kept.parent, kept]


def test_a_file_in_place_of_the_environment_is_named(tmp_path: Path):
    path = tmp_path / "venv"
    path.write_text("a note")
    status, output = Checkout(tmp_path).setup(SFPP_VENV=str(path))
    assert status == 1 and f"{path} was not made by this script" in output
    assert path.read_text() == "a note"


@pytest.mark.parametrize("content", ["#!/bin/sh\nexit 100\n", "no program"], ids=["fails", "does not start"])
def test_a_browser_that_cannot_be_installed_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: str
):
    apt_get = tmp_path / "apt-get"
    apt_get.write_text(content)
    apt_get.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("COMFY_BROWSER", raising=False)
    monkeypatch.setattr(browser, "PROGRAMS", ("chromium",))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    browser.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("browser: it cannot be installed, and the tests that need it will fail: ")
