"""Files that are either whole or not there, locks, and JSON of strangers.

An unfinished file has a name of its own, in the folder where the whole one will be. Its process holds a lock beside it,
which the system releases when the process ends, however it ends. So whoever writes to the folder next can tell what a
dead process left behind, and removes it. What a living process is writing, here or in another program that shares the
folder, stays.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

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
    """Return the same; None if somebody else holds it, or if that cannot be told."""
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


_HIDDEN: Final = "."
_VISIBLE: Final = "unfinished."
_OURS: Final = re.compile(
    r"(?:\.|unfinished\.).+\.(?P<unfinished>[0-9a-f]{8})\.sfpp-tmp(?:\.[^.]+)?|\.(?P<lock>[0-9a-f]{8})\.sfpp-lock"
)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a hidden path in the folder of `path`; on success its file is flushed and takes the place of `path`.

    If the block raises, also by an interrupt, the unfinished file is removed and `path` stays as it was. What dead
    processes left unfinished in the folder is removed first.

    Raises:
        FileNotFoundError: the folder does not exist.
    """
    with working_in(path.parent) as workplace, workplace.replacing(path.name) as temporary:
        yield temporary


@contextmanager
def growing(path: Path) -> Iterator[Path]:
    """Yield a path in the folder of `path` for everybody to look at, unfinished.NAME...; in the end it is removed.

    Raises as `replacing`, and removes what dead processes left, too.
    """
    with working_in(path.parent) as workplace, workplace.unfinished(path.name, _VISIBLE) as temporary:
        yield temporary


@contextmanager
def working_in(folder: Path) -> Iterator[Workplace]:
    """A place for many files of one writer: what costs time, the lock and the cleaning, is done once.

    Raises as `remove_leftovers`.
    """
    remove_leftovers(folder)
    token, lock = _new_claim(folder)
    try:
        yield Workplace(folder, token)
    finally:
        if lock is not None:
            let_go(lock)


class Workplace:
    """A folder, and the token that tells this writer's unfinished files from others'."""

    def __init__(self, folder: Path, token: str) -> None:
        self.folder = folder
        self._token = token

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """Do as `replacing` does, for the file `name` of the folder, without looking for what others left."""
        with self.unfinished(name, _HIDDEN) as temporary:
            mode = _usual_mode(temporary)
            yield temporary
            if mode is not None:
                temporary.chmod(mode)
            with temporary.open("r+b") as file:  # Windows flushes only what is open for writing
                os.fsync(file.fileno())
            os.replace(temporary, self.folder / name)

    @contextmanager
    def unfinished(self, name: str, prefix: str) -> Iterator[Path]:
        """Yield a path in the folder for what will be `name`; in the end, whatever lies there is removed."""
        whole = Path(name)
        temporary = self.folder / f"{prefix}{whole.stem}.{self._token}.sfpp-tmp{whole.suffix}"
        try:
            yield temporary
        finally:
            with suppress(PermissionError):  # on Windows, while somebody looks at it: the next clean-up takes it
                temporary.unlink(missing_ok=True)


def _usual_mode(path: Path) -> int | None:
    """Make an empty file and return the mode that the umask gives it; None where none can be made.

    Some libraries write files that nobody but their owner can read (safetensors since 0.8).
    """
    try:
        path.touch()
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None


def remove_leftovers(folder: Path) -> None:
    """Remove what dead processes left unfinished in `folder`. What cannot be told, or not be removed, stays.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    left: dict[str, list[Path]] = defaultdict(list)
    with suppress(PermissionError):
        for name in os.listdir(folder):
            if match := _OURS.fullmatch(name):
                left[match["unfinished"] or match["lock"]].append(folder / name)
    for token, paths in left.items():
        lock = try_lock(_lock_path(folder, token))
        if lock is None:
            continue  # its process lives, or that cannot be told
        for path in paths:
            if path != Path(lock.lock_file):
                with suppress(OSError):
                    path.unlink(missing_ok=True)
        let_go(lock)


def _new_claim(folder: Path) -> tuple[str, FileLock | None]:
    """A new token and its lock; none where the file system has no locks: there, nobody takes a file for left behind."""
    while True:
        token = secrets.token_hex(4)
        try:
            lock = lock_file(_lock_path(folder, token))
        except Timeout:
            continue  # a clean-up came upon the new lock before we had it
        except (OSError, NotImplementedError):
            return token, None
        if Path(lock.lock_file).exists():
            return token, lock
        lock.release()  # the clean-up has removed it, and the next would not see that we hold it


def _lock_path(folder: Path, token: str) -> Path:
    return folder / f".{token}.sfpp-lock"


def require_readable(path: Path) -> None:
    """Raise PermissionError if a file that is there may not be read: libraries call such a file not found."""
    if not os.access(path, os.R_OK):
        raise PermissionError(f"{path} may not be read by this program; change its permissions (chmod u+r).")


def parse_json(text: str | bytes) -> Any:
    """Parse as json.loads does; nesting that exhausts Python's stack is a ValueError too, as all that is no JSON."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error
