"""The browser that the tests of ComfyUI's page drive: where it is, and how it gets there.

    python -m tools.browser

installs Debian's Chromium where that can be done without asking, and says what to install where it cannot.

Environment variables:
    COMFY_BROWSER  the program of another Chromium, Chrome or Edge
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROGRAMS = (
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge"),
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)
# Without a font of its own for Chinese a page shows boxes.
DEBIAN_PACKAGES = ("chromium", "fonts-dejavu-core", "fonts-wqy-microhei")


class NoBrowserError(RuntimeError):
    """There is no browser; the message says what to install."""


def find_browser() -> Path:
    """The browser's program. Raises NoBrowserError."""
    if chosen := os.environ.get("COMFY_BROWSER"):
        if found := shutil.which(chosen):
            return Path(found)
        raise NoBrowserError(
            f"COMFY_BROWSER is {chosen!r}, which is no program; give the path of a Chromium or unset it"
        )
    for program in PROGRAMS:
        if found := shutil.which(program):
            return Path(found)
    raise NoBrowserError(
        "the tests of ComfyUI's page need Chromium, Chrome or Edge; install one (Debian: apt-get install chromium), or "
        "name its program in COMFY_BROWSER"
    )


def main() -> None:
    """Leaves a machine that cannot have a browser as it is: only the tests that need one will fail, saying this."""
    try:
        find_browser()
    except NoBrowserError as error:
        if "COMFY_BROWSER" in os.environ or shutil.which("apt-get") is None or os.geteuid() != 0:
            print(f"browser: {error}", file=sys.stderr)
            return
        _install()


def _install() -> None:
    """Leaves it at a line that says why where that cannot be done, for all other tests can do without."""
    print("browser: installing Debian's Chromium, which the tests of ComfyUI's page drive", flush=True)
    for command in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *DEBIAN_PACKAGES]):
        try:
            subprocess.run(["apt-get", *command], check=True, stdin=subprocess.DEVNULL)
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"browser: it cannot be installed, and the tests that need it will fail: {error}", file=sys.stderr)
            return


if __name__ == "__main__":
    main()
