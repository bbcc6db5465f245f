"""A client for ComfyUI servers: queue a workflow in API format, follow it, fetch what it made.

`python -m sfpp_client.queue` is the command line over it.
"""

from __future__ import annotations

from sfpp_client.client import ComfyClient, new_prompt_id
from sfpp_client.errors import (
    ComfyError,
    NodeFailed,
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
from sfpp_client.protocol import Event, Message, Preview, Progress, Queued
from sfpp_client.results import OutputFile, RunResult
from sfpp_client.workflow import Workflow, load_workflow, with_inputs

__all__ = [
    "ComfyClient",
    "ComfyError",
    "Event",
    "Message",
    "NodeFailed",
    "OutputFile",
    "Preview",
    "Progress",
    "Queued",
    "ResultGone",
    "RunInterrupted",
    "RunLost",
    "RunResult",
    "RunTimedOut",
    "ServerUnreachable",
    "StrangeAnswer",
    "Unsendable",
    "UploadRefused",
    "Workflow",
    "WorkflowRefused",
    "load_workflow",
    "new_prompt_id",
    "with_inputs",
]
