"""Ratings that are kept for good, so that none is paid for twice."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Final

from ..video.span import VideoSpan
from .score import Rating

logger = logging.getLogger(__name__)

# A claim is a lock on one byte of a file that stays empty: byte-range locks may lie past the end, one file serves any
# number of claims, and the system frees them when a process dies, however it dies. Two works that fall on the same byte
# merely wait for each other. The bound is that of Windows.
NUM_BYTES: Final = 2**31 - 1

if sys.platform == "win32":
    import msvcrt

    def _lock(file: int, byte: int, *, wait: bool) -> None:
        while True:
            os.lseek(file, byte, os.SEEK_SET)
            try:
                msvcrt.locking(file, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
            except OSError as error:
                # LK_LOCK gives up after ten seconds.
                if not (wait and error.errno == errno.EDEADLOCK):
                    raise
            else:
                return
else:
    import fcntl

    def _lock(file: int, byte: int, *, wait: bool) -> None:
        fcntl.lockf(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)


@contextmanager
def claimed(path: Path, work: str) -> Iterator[None]:
    """Hold the claim on `work`, any text that says what it is, after waiting for the process that holds it.

    A process holds one claim of a file at a time: its threads do not keep each other out, and the first to end frees
    what the others hold.

    path: the file that all claimants share; made if it is missing, and left.

    Raises:
        OSError: the file cannot be made, or its file system has no locks.
    """
    byte = int.from_bytes(hashlib.sha256(work.encode()).digest()[:8], "big") % NUM_BYTES
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            _lock(file, byte, wait=False)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            logger.info("waiting for another process that is at the same work")
            _lock(file, byte, wait=True)
        yield
    finally:
        # Closing frees the claim.
        os.close(file)


# In the file's header, so that nobody's other database is taken for a ledger: "SFPP".
APPLICATION_ID: Final = 0x53465050
FORMAT_VERSION: Final = 1

LOCK_SECONDS: Final = 60.0
"""How long to wait while other processes write; each holds the file for milliseconds."""

SCHEMA: Final = """
CREATE TABLE rating (
    judge TEXT NOT NULL,
    footage TEXT NOT NULL,
    prompt TEXT NOT NULL,
    rating REAL NOT NULL,
    explanation TEXT NOT NULL,
    PRIMARY KEY (judge, footage, prompt)
) WITHOUT ROWID
"""


class LedgerError(RuntimeError):
    """A ledger that cannot be used; says which file it is and what to do."""


class RatingLedger:
    """A RatingStore in an SQLite file, by judge, fingerprint of the footage, and prompt.

    Any number of processes and threads may use one file. What `put` has returned from survives a killed process and a
    power cut. SQLite's rollback journal, not its write-ahead log: that one does not work on shared folders.

    Args:
        path: the file, made if it is missing; its folder must exist.

    Raises:
        LedgerError: the file is something else, of another version, or cannot be read or written; so in all methods.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        with self._transaction() as database:
            self._adopt(database)

    def get(self, judge: str, video: VideoSpan, prompt: str) -> Rating | None:
        """The rating of exactly this, or None."""
        question = "SELECT explanation, rating FROM rating WHERE judge = ? AND footage = ? AND prompt = ?"
        key = (judge, video.fingerprint(), prompt)
        with self._transaction() as database:
            row = database.execute(question, key).fetchone()
        return Rating(explanation=row[0], rating=row[1]) if row else None

    def put(self, judge: str, video: VideoSpan, prompt: str, rating: Rating) -> None:
        """Keep a rating in place of an earlier one; it is on the disk when this returns."""
        entry = (judge, video.fingerprint(), prompt, rating.rating, rating.explanation)
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO rating VALUES (?, ?, ?, ?, ?)", entry)

    def claim(self, judge: str, video: VideoSpan, prompt: str) -> AbstractContextManager[None]:
        """Inside the `with` block no other process that claims the same video has it rated too.

        Whoever had to wait finds what the other one paid for in the ledger. See `claimed` for threads.
        """
        return claimed(self.path.with_name(f"{self.path.name}.lock"), f"{judge}\n{video.fingerprint()}\n{prompt}")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        # A connection for each: it takes under a millisecond, may not be shared by threads, and may not be inherited.
        try:
            with closing(sqlite3.connect(self.path, timeout=LOCK_SECONDS)) as database, database:
                database.execute("PRAGMA synchronous = FULL")
                yield database
        except sqlite3.Error as error:
            raise LedgerError(
                f"{self.path.name} cannot be used as a ledger of ratings ({error}); "
                "see that its folder exists and can be written, or name another file."
            ) from error

    def _adopt(self, database: sqlite3.Connection) -> None:
        """Make an empty file a ledger and see that any other is one; at once, since others may be doing the same."""
        database.execute("BEGIN IMMEDIATE")
        application, version = (
            database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        if (application, version) == (APPLICATION_ID, FORMAT_VERSION):
            return
        if application == APPLICATION_ID:
            raise LedgerError(
                f"{self.path.name} is a ledger of version {version}, this program writes version {FORMAT_VERSION}; "
                "name another file."
            )
        if application != 0 or database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise LedgerError(f"{self.path.name} is a database of something else; name another file for the ledger.")
        database.execute(SCHEMA)
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
