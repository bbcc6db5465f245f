"""The pages of ComfyUI that the page tests drive: the one that the ComfyUI at hand pins, and the newest.

    python -m tools.pages

installs the newest one to `.comfyui-page`, if the tests are to drive it and it is not there: its static files alone,
which any ComfyUI serves with --front-end-root.

Environment variables:
    SFPP_PAGE  "pinned" (also where it is not set), "newest" or "both", which `scripts/test --endurance` sets
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.comfy_server import ROOT

VARIABLE = "SFPP_PAGE"
PINNED, NEWEST = "pinned", "newest"
CHOICES = {PINNED: (PINNED,), NEWEST: (NEWEST,), "both": (PINNED, NEWEST)}

NEWEST_WHEEL = "comfyui-frontend-package==1.58.1"
NEWEST_WHEEL_HASH = "sha256:37912597537a731a8f421179618a736c24184c5bdbfa327f38b2fb7c291852d9"
IN_WHEEL = Path("comfyui_frontend_package", "static")
FOLDER = ROOT / ".comfyui-page"
MARKER = ".unpacked-from"


class NoPageError(RuntimeError):
    """A page that the tests are to drive is not there; the message says what to do."""


def pages() -> tuple[str, ...]:
    """The pages that the tests drive. Raises NoPageError if the environment names one that there is not."""
    choice = os.environ.get(VARIABLE) or PINNED
    if choice not in CHOICES:
        raise NoPageError(f"{VARIABLE} is {choice!r}; set it to {', '.join(CHOICES)}, or unset it")
    return CHOICES[choice]


def server_arguments(page: str) -> tuple[str, ...]:
    """Return what has a ComfyUI serve that page. Raises NoPageError if it is not installed."""
    if page == PINNED:
        return ()
    if not _is_installed():
        raise NoPageError(f"the newest page is not installed; run {VARIABLE}={NEWEST} python -m tools.pages")
    return ("--front-end-root", str(FOLDER))


def main() -> None:
    """Install the newest page, or say why that cannot be: only the tests that need it will fail."""
    if NEWEST not in pages() or _is_installed():
        return
    print(f"pages: installing {NEWEST_WHEEL} to {FOLDER}", flush=True)
    try:
        _install()
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"pages: it cannot be installed, and the tests that need it will fail: {error}", file=sys.stderr)


def _is_installed() -> bool:
    marker = FOLDER / MARKER
    return marker.is_file() and marker.read_text(encoding="utf-8") == NEWEST_WHEEL


def _install() -> None:
    """It appears under its name complete or not at all."""
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=f"{FOLDER.name}-") as name:
        stage = Path(name)
        (stage / "wheel.txt").write_text(f"{NEWEST_WHEEL} --hash={NEWEST_WHEEL_HASH}\n", encoding="utf-8")
        command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
        command += ["--require-hashes", "-r", stage / "wheel.txt", "--target", stage / "site"]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        static = stage / "site" / IN_WHEEL
        (static / MARKER).write_text(NEWEST_WHEEL, encoding="utf-8")
        if FOLDER.exists():
            shutil.move(FOLDER, stage / "replaced")
        static.rename(FOLDER)


if __name__ == "__main__":
    main()
