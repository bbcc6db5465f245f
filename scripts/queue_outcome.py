"""How `scripts.queue` ends: one exit code for each thing that a scheduler would do about it."""

from __future__ import annotations

from enum import IntEnum

from scripts.comfy_client import (
    ComfyError,
    NodeFailed,
    ResultGone,
    RunInterrupted,
    RunLost,
    RunTimedOut,
    ServerUnreachable,
    Unsendable,
    UploadRefused,
    WorkflowRefused,
)
from scripts.comfy_errors import OutOfMemory, OutputNotWritten
from scripts.queue_settings import SettingError


class ExitCode(IntEnum):
    """From <sysexits.h> where it has the case, for schedulers know it; 124 is timeout(1)'s, 128 + n a signal's."""

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
