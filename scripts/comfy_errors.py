"""What can go wrong between a client and a ComfyUI server; every message has the server's own words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ComfyError(RuntimeError):
    """A request or a run that did not work."""


class ServerUnreachable(ComfyError):
    """Nobody answers at the server's address."""


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


def _sentence(error: Mapping[str, Any]) -> str:
    message, details = str(error.get("message", "")), str(error.get("details") or "")
    return f"{message}: {details}" if details and details != message else message
