"""How `sfpp_client.queue` ends: one exit code for each thing that a scheduler would do about it.

Fetches what a run has made into a local folder; nothing is lost that is there, or that another job fetches, too.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from enum import IntEnum
from itertools import count
from pathlib import Path

from sfpp_client.client import ComfyClient
from sfpp_client.errors import (
    ComfyError,
    NodeFailed,
    OutOfMemory,
    OutputNotWritten,
    ResultGone,
    RunInterrupted,
    RunLost,
    RunTimedOut,
    ServerUnreachable,
    StrangeAnswer,
    Unsendable,
    UploadRefused,
    WorkflowRefused,
)
from sfpp_client.queue.settings import SettingError
from sfpp_client.results import OutputFile
from sfpp_core.files import first_free


class ExitCode(IntEnum):
    """Exit statuses, from <sysexits.h> where it has the case; 124 is timeout(1)'s, 128 + n a signal's."""

    DONE = 0
    USAGE = 2
    REFUSED = 65
    NO_INPUT = 66
    UNAVAILABLE = 69
    NODE_FAILED = 70
    OUT_OF_MEMORY = 71
    NOT_WRITTEN = 73
    INTERRUPTED = 75
    NOT_COMFYUI = 76
    TIMED_OUT = 124
    SIGINT = 130
    SIGTERM = 143


MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.USAGE: "the command line cannot be read",
    ExitCode.REFUSED: "the workflow, a setting or an upload does not fit this server; do not retry as it is",
    ExitCode.NO_INPUT: "a local file cannot be read",
    ExitCode.UNAVAILABLE: "the server cannot be reached, or was lost or restarted meanwhile; retry",
    ExitCode.NODE_FAILED: "a node failed; retrying the same will most likely fail again",
    ExitCode.OUT_OF_MEMORY: "the server has too little memory; retry on a larger one or with smaller settings",
    ExitCode.NOT_WRITTEN: "a disk is full or an output cannot be written, here or on the server; make room and retry",
    ExitCode.INTERRUPTED: "somebody stopped the run at the server, or removed its result; retry if they agree",
    ExitCode.NOT_COMFYUI: "the server's answer is not ComfyUI's; check the address and any proxy",
    ExitCode.TIMED_OUT: "the run was not over in time and was stopped",
    ExitCode.SIGINT: "stopped here by Ctrl-C; the run was stopped too",
    ExitCode.SIGTERM: "stopped here by SIGTERM; the run was stopped too",
}


class InputUnreadable(Exception):
    """A local file that is needed cannot be read."""


# The first kind that fits decides.
_BY_ERROR: tuple[tuple[type[Exception], ExitCode], ...] = (
    (WorkflowRefused, ExitCode.REFUSED),
    (Unsendable, ExitCode.REFUSED),
    (UploadRefused, ExitCode.REFUSED),
    (SettingError, ExitCode.REFUSED),
    (InputUnreadable, ExitCode.NO_INPUT),
    (ServerUnreachable, ExitCode.UNAVAILABLE),
    (RunLost, ExitCode.UNAVAILABLE),
    (OutOfMemory, ExitCode.OUT_OF_MEMORY),
    (OutputNotWritten, ExitCode.NOT_WRITTEN),
    (NodeFailed, ExitCode.NODE_FAILED),
    (RunInterrupted, ExitCode.INTERRUPTED),
    (ResultGone, ExitCode.INTERRUPTED),
    (RunTimedOut, ExitCode.TIMED_OUT),
    (ComfyError, ExitCode.NOT_COMFYUI),
    (OSError, ExitCode.NOT_WRITTEN),
)

EXPECTED = tuple(kind for kind, _ in _BY_ERROR)
"""The errors that are told in a sentence; any other is a defect of ours and shows where."""


def exit_code_of(error: BaseException) -> ExitCode:
    """The exit code for one of the errors that are expected."""
    return next(code for kind, code in _BY_ERROR if isinstance(error, kind))


_DELAY_S = 1.0


def fetch(client: ComfyClient, file: OutputFile, folder: Path, *, patience_s: float) -> Path:
    """Copy a file that a run made into the folder; return where it is.

    It is called as on the server, with a number if that name is taken: every server counts its videos from 1, and jobs
    that share a folder may end together.

    Args:
        patience_s: seconds for which the server may be away, or somebody else answer in its place.

    Raises:
        ResultGone, ServerUnreachable, StrangeAnswer: the server does not give it.
        OSError: it cannot be written.
    """
    with first_free(_candidates(folder / Path(file.filename).name)) as path:
        _download(client, file, path, patience_s)
        return path


def _candidates(path: Path) -> Iterator[Path]:
    yield path
    for number in count(1):
        yield path.with_name(f"{path.stem} ({number}){path.suffix}")


def _download(client: ComfyClient, file: OutputFile, path: Path, patience_s: float) -> None:
    failing_since: float | None = None
    while True:
        try:
            client.download(file, path.parent, name=path.name)
            return
        except OSError as error:
            raise OSError(f"{path} could not be written: {error.strerror or error}") from error
        except (ServerUnreachable, StrangeAnswer) as error:
            now = time.monotonic()
            if failing_since is None:
                failing_since = now
            if now - failing_since >= patience_s:
                raise
            if now == failing_since:
                print(f"queue: {error}; trying again to fetch {file.filename}", file=sys.stderr, flush=True)
            time.sleep(_DELAY_S)
