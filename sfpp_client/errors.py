"""What can go wrong between a client and a ComfyUI server; every message has the server's own words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_MEMORY_EXCEPTIONS = frozenset({"OutOfMemoryError", "MemoryError", "_ArrayMemoryError"})
"""PyTorch's on any accelerator, Python's, NumPy's."""

_MEMORY_MESSAGE = re.compile(r"\bout of memory\b|DefaultCPUAllocator", re.IGNORECASE)
"""CUDA's own errors, Metal and PyTorch on a CPU have no exception of their own."""

_WRITE_NUMBERS = "27|28|30|69|122"
"""Too large, disk full, read-only, quota on macOS and on Linux: written out, for the server may be another system."""

_WRITE_MESSAGE = re.compile(
    rf"\[Errno ({_WRITE_NUMBERS})\]|\bOs {{ code: ({_WRITE_NUMBERS})\b|\(os error ({_WRITE_NUMBERS})\)|\[WinError 112\]"
    "|No space left on device|Read-only file system|quota exceeded|File too large|not enough space on the disk"
    "|could not be written to |finished chunks are kept there: ",
    re.IGNORECASE,
)
"""As the errors of Python, of Rust, which safetensors passes on, and of Windows print themselves, and as sentences say
what the system calls them."""


class ComfyError(RuntimeError):
    """A request or a run that did not work."""


class ServerUnreachable(ComfyError):
    """Nobody answers at the server's address, or only to say that it cannot answer now."""


class StrangeAnswer(ComfyError):
    """An answer that ComfyUI does not give: somebody else is at the address, or a proxy speaks in its place."""


class Unsendable(ComfyError):
    """A workflow is no JSON, for it holds a number such as NaN."""


class ResultGone(ComfyError):
    """The server does not have a file any more that a run made."""


class RunLost(ComfyError):
    """The server does not know a run any more: it was restarted, and a restart forgets the queue."""


class RunTimedOut(ComfyError):
    """A run took longer than its caller allowed."""


class RunInterrupted(ComfyError):
    """A run ended because somebody interrupted it."""


class WorkflowRefused(ComfyError):
    """The server did not accept a workflow, or only a part of it.

    Attributes:
        error: the server's error object (type, message, details); empty if only some nodes were refused.
        node_errors: node id -> {"class_type", "errors": [{"type", "message", "details", ...}]}.
    """

    def __init__(self, error: Mapping[str, Any], node_errors: Mapping[str, Any]) -> None:
        self.error = dict(error)
        self.node_errors = dict(node_errors)
        lines = [_sentence(error)] if error else ["some nodes of the workflow are not valid"]
        for node_id, found in self.node_errors.items():
            lines += [f"node {node_id} ({found.get('class_type')}): {_sentence(e)}" for e in found.get("errors", ())]
        super().__init__("\n".join(lines))


class UploadRefused(ComfyError):
    """The server does not take a file."""


class NodeFailed(ComfyError):
    """A node raised while the workflow ran.

    Attributes:
        node_id, node_type, exception_type, exception_message, traceback: as the server reports them.
    """

    def __init__(self, report: Mapping[str, Any]) -> None:
        self.node_id = str(report.get("node_id"))
        self.node_type = str(report.get("node_type"))
        self.exception_type = str(report.get("exception_type"))
        self.exception_message = str(report.get("exception_message")).strip()
        self.traceback = "".join(report.get("traceback") or ())
        super().__init__(f"node {self.node_id} ({self.node_type}): {self.exception_type}: {self.exception_message}")


class OutOfMemory(NodeFailed):
    """A node asked for more memory than the server has."""


class OutputNotWritten(NodeFailed):
    """A node could not write: the server's disk or quota is full, the file is too large for it, or it is read-only."""


def node_failure(report: Mapping[str, Any]) -> NodeFailed:
    """The failure that a server reports of a node, by its cause where the exception tells it."""
    kind = str(report.get("exception_type")).rpartition(".")[2]
    message = str(report.get("exception_message"))
    if kind in _MEMORY_EXCEPTIONS or _MEMORY_MESSAGE.search(message):
        return OutOfMemory(report)
    return OutputNotWritten(report) if _WRITE_MESSAGE.search(message) else NodeFailed(report)


def refusal(answer: Mapping[str, Any], status: str) -> WorkflowRefused:
    """Return what a server's answer to a workflow says; a proxy's says nothing, and then the HTTP status has to do."""
    error = answer.get("error")
    if not isinstance(error, dict):
        error = {"type": "http_error", "message": status, "details": str(error or "")}
    return WorkflowRefused(error, answer.get("node_errors") or {})


def is_passing(status: int) -> bool:
    """Return whether an HTTP error may be gone on the next try: too many requests, or trouble behind the server."""
    return status == 429 or status >= 500


def _sentence(error: Mapping[str, Any]) -> str:
    message, details = str(error.get("message", "")), str(error.get("details") or "")
    return f"{message}: {details}" if details and details != message else message
