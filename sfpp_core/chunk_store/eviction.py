"""Cleaning the chunk store, and which of its folders are in use.

A folder in use is held by a lock of the operating system, which ends with its process. Where a disk has no locks, or
another process's cannot be had, videos are made all the same; only cleaning holds back.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..files import let_go, try_lock

GATE = ".gate"
"""In the spool's folder: held while a video's folder is taken or removed, never for long."""
GATE_SECONDS = 10.0
"""How long a video waits for it. Without it a video just begun may be cleaned, and its chunks are made again."""
HOLD = "in_use_*.lock"
VIDEO = re.compile(r"seed\d+_\d+x\d+_[0-9a-f]+")
"""Names of videos' folders, see Spool."""


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Make `folder`, and hold it against `clean` until the block ends; any number of processes may hold one.

    Raises OSError if the folder cannot be made.
    """
    name = HOLD.replace("*", f"{os.getpid()}_{secrets.token_hex(4)}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _gate(folder.parent, GATE_SECONDS):
        folder.mkdir(exist_ok=True)
        hold = try_lock(folder / name)
        _touch(folder)
    try:
        yield
    finally:
        if hold is not None:
            let_go(hold)
        _touch(folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """The result of a cleaning."""

    folders: int
    """Removed."""
    freed: int
    """Bytes."""
    left: int
    """Bytes."""


def clean(root: Path, *, most_bytes: int, most_seconds: float) -> Cleaned:
    """Remove videos that nobody uses.

    Those last used more than `most_seconds` ago go first, then the oldest ones until all that is left takes no more
    than `most_bytes`. Nothing is removed while another process does the same.
    """
    left, removed, freed = 0, 0, 0
    with _gate(root, 0.0) as is_ours:
        folders = _videos(root) if is_ours else []
        sizes = {folder: _size(folder) for folder in folders}
        left = sum(sizes.values())
        for folder in folders:
            is_old = time.time() - folder.stat().st_mtime > most_seconds
            if (is_old or left > most_bytes) and not _is_held(folder):
                shutil.rmtree(folder, ignore_errors=True)
                # On Windows a file that somebody has open stays, and its folder with it.
                gone = sizes[folder] - (_size(folder) if folder.is_dir() else 0)
                left, freed, removed = left - gone, freed + gone, removed + (not folder.is_dir())
    return Cleaned(folders=removed, freed=freed, left=left)


@contextmanager
def _gate(root: Path, timeout: float) -> Iterator[bool]:
    """Alone among all that take or remove videos; whether that is so."""
    lock = try_lock(root / GATE, timeout=timeout) if root.is_dir() else None
    try:
        yield lock is not None
    finally:
        if lock is not None:
            lock.release()


def _videos(root: Path) -> list[Path]:
    """Videos' folders, those first that were used last the longest time ago; nothing that somebody else put there."""
    folders = [path for path in root.iterdir() if path.is_dir() and VIDEO.fullmatch(path.name)]
    return sorted(folders, key=lambda path: path.stat().st_mtime)


def _touch(folder: Path) -> None:
    with suppress(OSError):
        os.utime(folder)


def _size(folder: Path) -> int:
    total = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _is_held(folder: Path) -> bool:
    """Return whether a living process holds the folder. What a dead one left is removed."""
    for path in folder.glob(HOLD):
        lock = try_lock(path)
        if lock is None:
            return True  # or nobody can tell
        let_go(lock)
    return False
