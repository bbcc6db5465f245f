"""Work that only one process at a time does, on one machine or on a shared folder."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

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
