"""Locks of the operating system, which end with the process that holds them, however it ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


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


@contextmanager
def first_free(paths: Iterable[Path]) -> Iterator[Path]:
    """Hold the first of these names that no file has and nobody holds, for a file that is not there before the end.

    Where the file system has no locks, a name that no file has is free.
    """
    for path in paths:
        with _held(path) as is_ours:
            if is_ours and not path.exists():
                yield path
                return


@contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Hold a name; whether nobody else does."""
    try:
        lock = lock_file(path.with_name(f".{path.name}.sfpp-number"))
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError):
        lock = None
    try:
        yield True
    finally:
        if lock is not None:
            let_go(lock)
