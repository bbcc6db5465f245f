"""Which folders of the spool are in use: by locks of the operating system, which end with their process."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

GATE = ".gate"
"""In the spool's folder: held while a film's folder is taken or removed, never for long."""
HOLD = "in_use_*.lock"


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Make `folder`, and hold it against `clean` until the block ends; any number of processes may hold one."""
    hold = FileLock(folder / HOLD.replace("*", f"{os.getpid()}_{secrets.token_hex(4)}"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / GATE):
        folder.mkdir(exist_ok=True)
        os.utime(folder)
        hold.acquire()
    try:
        yield
    finally:
        hold.release()
        with suppress(OSError):
            Path(hold.lock_file).unlink(missing_ok=True)
            os.utime(folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """What a cleaning did."""

    folders: int
    """Removed."""
    freed: int
    """Bytes."""
    left: int
    """Bytes."""


def clean(root: Path, *, most_bytes: int, most_seconds: float) -> Cleaned:
    """Remove films that nobody uses: those last used more than `most_seconds` ago, and then the oldest ones until all
    that is left takes no more than `most_bytes`."""
    if not root.is_dir():
        return Cleaned(folders=0, freed=0, left=0)
    with FileLock(root / GATE):
        folders = sorted((path for path in root.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
        sizes = {folder: _size(folder) for folder in folders}
        left, removed = sum(sizes.values()), []
        for folder in folders:
            is_old = time.time() - folder.stat().st_mtime > most_seconds
            if (is_old or left > most_bytes) and not _is_held(folder):
                shutil.rmtree(folder, ignore_errors=True)
                left -= sizes[folder]
                removed.append(folder)
    return Cleaned(folders=len(removed), freed=sum(sizes[folder] for folder in removed), left=left)


def _size(folder: Path) -> int:
    total = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _is_held(folder: Path) -> bool:
    """Whether a living process holds the folder. What a dead one left is removed."""
    for path in folder.glob(HOLD):
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        with suppress(OSError):
            path.unlink(missing_ok=True)
    return False
