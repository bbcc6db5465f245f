"""A disk that is soon full: a file system in memory, mounted for a test."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk(folder: Path, *, megabytes: int) -> Iterator[None]:
    """Mount a disk of its own at an empty folder until the block ends; needs the right to mount, as root has it."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        # What still holds a file open does not keep the disk in place.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
