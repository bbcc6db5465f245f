"""What a ComfyUI run has made, read from the server's history."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sfpp_client.errors import ComfyError, RunInterrupted, node_failure


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputFile:
    """A file that a run made, as the server names it."""

    node_id: str
    filename: str
    subfolder: str
    folder: str
    """"output", "temp" or "input"."""

    def query(self) -> dict[str, str]:
        """The query that asks the server's /view for this file."""
        return {"filename": self.filename, "subfolder": self.subfolder, "type": self.folder}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """A run that ended well."""

    prompt_id: str
    outputs: Mapping[str, Mapping[str, Any]]
    """Node id -> what its output node reported to the page, cached nodes included."""
    cached_nodes: frozenset[str]
    """Nodes that were not executed because their result was still known."""

    def files(self) -> Iterator[OutputFile]:
        """Every file that is named in the outputs."""
        for node_id, output in self.outputs.items():
            for entries in output.values():
                yield from _files_in(node_id, entries)


def result_of(prompt_id: str, entry: Mapping[str, Any]) -> RunResult:
    """The result that a history entry records.

    Raises:
        NodeFailed, RunInterrupted, ComfyError: what the entry records in place of a result.
    """
    status = entry.get("status") or {}
    messages = [(kind, data or {}) for kind, data in status.get("messages") or ()]
    for kind, data in reversed(messages):
        if kind == "execution_error":
            raise node_failure(data)
        if kind == "execution_interrupted":
            raise RunInterrupted(f"the run was interrupted in node {data.get('node_id')} ({data.get('node_type')})")
    if status.get("status_str") != "success":
        raise ComfyError(f"the run {prompt_id} ended as {status.get('status_str')!r}: {messages[-1:]}")
    cached = (data.get("nodes") or () for kind, data in messages if kind == "execution_cached")
    cached_nodes = frozenset(str(node) for nodes in cached for node in nodes)
    return RunResult(prompt_id=prompt_id, outputs=entry.get("outputs") or {}, cached_nodes=cached_nodes)


def _files_in(node_id: str, entries: Any) -> Iterator[OutputFile]:
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, Mapping) and "filename" in entry:
            yield OutputFile(
                node_id=node_id,
                filename=entry["filename"],
                subfolder=entry.get("subfolder") or "",
                folder=entry.get("type") or "output",
            )
