"""What an installer gets: a wheel with the right contents, and metadata that never replaces what a user has."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
PACKAGES = ("sfpp_core", "sfpp_client")
FOR_A_CLONE = ("sfpp_core/tiny/weights/teacher.safetensors",)
"""Files of the packages that only training opens."""
MOST_BYTES = 26_000_000
"""Of what an artist installs."""
OPENED_BY_NODES = (
    *(
        "__init__.py",
        "pyproject.toml",
        "requirements.txt",
        "LICENSE",
        "README.md",
        "nodes/sampler.py",
        "web/js/report.js",
    ),
    *("locales/zh/nodeDefs.json", "web/docs/SFPPSampler/en.md", "workflows/tiny_text_to_long_video.json"),
    *(f"sfpp_core/tiny/weights/{part}.safetensors" for part in ("student", "text_encoder", "vae")),
)


def _requirements() -> list[Requirement]:
    return [Requirement(line) for line in PROJECT["dependencies"]]


@pytest.mark.parametrize("requirement", _requirements(), ids=lambda requirement: requirement.name)
def test_dependencies_have_lower_bounds_only(requirement: Requirement):
    assert [specifier.operator for specifier in requirement.specifier] == [">="]
    assert requirement.url is None and requirement.marker is None


def test_requirements_file_for_installers_that_read_no_pyproject_says_the_same():
    listed = (ROOT / "requirements.txt").read_text().split()
    assert listed == PROJECT["dependencies"]


def test_name_and_version_follow_the_rules_of_the_comfyui_registry():
    name = PROJECT["name"]
    assert len(name) < 100
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9]*([-_.][A-Za-z0-9]+)*", name), "no leading digit, no two specials in a row"
    assert "comfyui" not in name.lower()
    assert re.fullmatch(r"\d+\.\d+\.\d+", PROJECT["version"])
    assert PROJECT["urls"]["Repository"].startswith("https://")
    assert PYPROJECT["tool"]["comfy"]["PublisherId"]
    assert (ROOT / PROJECT["license"]["file"]).read_text().lstrip().startswith("Apache License")


def test_pinned_versions_satisfy_every_lower_bound():
    pins = [Requirement(line) for line in _lines(ROOT / "scripts" / "constraints.txt")]
    bounds = _requirements()
    for extra in PROJECT["optional-dependencies"].values():
        bounds += [Requirement(line) for line in extra]
    checked = 0
    for bound in bounds:
        for pin in pins:
            if pin.name.replace("_", "-") == bound.name.replace("_", "-"):
                (specifier,) = pin.specifier
                assert Version(specifier.version) in bound.specifier, f"{pin} does not satisfy {bound}"
                checked += 1
    assert checked >= len(bounds) // 2


def test_environment_is_the_pinned_one():
    """A version that set-up forgot to pin would be another one tomorrow."""
    from importlib.metadata import version

    for line in _lines(ROOT / "scripts" / "constraints.txt"):
        pin = Requirement(line)
        if pin.name in {"torch", "torchvision", "torchaudio", "safetensors", "einops", "pytest", "ruff", "diffusers"}:
            if pin.marker is None or pin.marker.evaluate():
                installed = Version(version(pin.name)).public
                assert installed in pin.specifier, f"{pin.name} {installed} is installed, {line} is pinned"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel that `pip install .` makes."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "uv", "build", "--wheel", "--no-build-isolation", "--quiet", "--out-dir", out]
    subprocess.run([*command, _source_copy(tmp_path_factory)], check=True)
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_the_core_and_the_client_and_puts_no_generic_name_into_an_environment(wheel: zipfile.ZipFile):
    tops = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" not in name}
    assert tops == set(PACKAGES)


def test_wheel_holds_every_file_of_its_packages(wheel: zipfile.ZipFile):
    packed = set(wheel.namelist())
    for package in PACKAGES:
        files = (path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*") if path.is_file())
        missing = sorted(name for name in files if "__pycache__" not in name and name not in {*packed, *FOR_A_CLONE})
        assert not missing, f"package data in pyproject.toml leaves out {missing}"


def test_an_archive_is_light_and_holds_what_nodes_open():
    """As a download of a release is made; ComfyUI's registry packs what .comfyignore leaves."""
    archive = tarfile.open(fileobj=io.BytesIO(_git("archive", "--format=tar", "HEAD")))
    sizes = {member.name: member.size for member in archive if member.isfile()}
    assert sum(sizes.values()) < MOST_BYTES
    assert not set(OPENED_BY_NODES) - sizes.keys()
    tracked = set(_git("ls-files").decode().split("\n")[:-1])
    ignored = _git("ls-files", "--cached", "--ignored", f"--exclude-from={ROOT / '.comfyignore'}").decode()
    assert tracked - sizes.keys() == set(ignored.split("\n")[:-1]), ".comfyignore and .gitattributes differ"


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


def _source_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a build reads, in a folder of its own: a build writes beside its sources."""
    copy = tmp_path_factory.mktemp("source")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", PROJECT["readme"], PROJECT["license"]["file"]):
        shutil.copy(ROOT / name, copy)
    return copy


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
