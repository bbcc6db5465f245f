"""Locks of the operating system, which end with the process that holds them, however it ends."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from filelock import FileLock


def lock_file(path: Path, *, timeout: float = 0.0) -> FileLock:
    """Hold a lock, waiting `timeout` seconds at most.

    Raises:
        filelock.Timeout: somebody else holds it.
        OSError, NotImplementedError: the file cannot be written, or its file system has no locks.
    """
    # A generator that holds the lock may be closed by another thread than the one that began it.
    lock = FileLock(path, timeout=timeout, thread_local=False)
    lock.acquire()
    return lock


def try_lock(path: Path, *, timeout: float = 0.0) -> FileLock | None:
    """The same; None if somebody else holds it, or if that cannot be told."""
    try:
        return lock_file(path, timeout=timeout)
    except (OSError, NotImplementedError):
        return None


def let_go(lock: FileLock) -> None:
    """Release a lock and remove its file: on Windows, that can only be done once the lock is released."""
    path = Path(lock.lock_file)
    with suppress(OSError):
        path.unlink(missing_ok=True)
    lock.release()
    with suppress(OSError):
        path.unlink(missing_ok=True)
