"""The part of the queued workflow that made a value, as ComfyUI's own cache tells whether it is the same again."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import execution
import folder_paths
from comfy_api.internal import _ComfyNodeInternal, first_real_override
from comfy_execution.utils import get_executing_context

from .callables import origin_of

LONGEST_NAME = 1000
"""Of what could be a file's name."""


def upstream_digest(dynprompt: Any, input_name: str) -> str | None:
    """Digest of all that leads to an input of the node at work; None where that does not decide what comes out.

    It covers class types, versions of their packs, values of widgets, files that these name (by name, size and time)
    and what the nodes themselves say of changes. Ids of nodes and their places on the page count for nothing.
    dynprompt: ComfyUI's DynamicPrompt, or None where the node was called without one.
    """
    context = get_executing_context()
    if dynprompt is None or context is None:
        return None
    try:
        link = dynprompt.get_node(context.node_id)["inputs"][input_name]
        # Of several values that one link carries, this one.
        return f"{_Upstream(dynprompt).of_link(link)} {context.list_index}"
    except (_Undecided, KeyError, TypeError, ValueError):
        return None


class _Undecided(Exception):
    """A node may give something else for the same inputs."""


class _Upstream:
    """Digests of nodes; each is made once, however many links lead to it."""

    def __init__(self, dynprompt: Any) -> None:
        self._dynprompt = dynprompt
        self._known: dict[str, str] = {}
        self._folders = _folders()

    def of_link(self, link: Any) -> str:
        """Raises _Undecided, or KeyError for a graph that was not queued as it is."""
        node_id, output = link
        if node_id not in self._known:
            self._known[node_id] = self._of_node(self._dynprompt.get_node(node_id))
        return f"{self._known[node_id]} {output}"

    def _of_node(self, node: Mapping[str, Any]) -> str:
        changed, node_class = node.get("is_changed"), execution.nodes.NODE_CLASS_MAPPINGS[node["class_type"]]
        # A ComfyUI that was told to remember nothing (--cache-none) does not ask nodes whether they changed.
        is_unasked = "is_changed" not in node and _may_change(node_class)
        if is_unasked or _holds_nan(changed):
            raise _Undecided
        inputs = {}
        for name, value in sorted(node["inputs"].items()):
            inputs[name] = self.of_link(value) if _is_link(value) else [value, *_files_named_by(value, self._folders)]
        told = [node["class_type"], origin_of(node_class.__module__), str(changed), inputs]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _may_change(node_class: type) -> bool:
    """Return whether a node says itself if it gives something else, as ComfyUI asks it."""
    if issubclass(node_class, _ComfyNodeInternal):
        return first_real_override(node_class, "fingerprint_inputs") is not None
    return hasattr(node_class, "IS_CHANGED")


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def _holds_nan(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_holds_nan, value))
    return isinstance(value, float) and math.isnan(value)


def _folders() -> list[str]:
    """List the folders that ComfyUI looks for files in."""
    kinds = folder_paths.folder_names_and_paths
    folders = {folder for kind in kinds for folder in folder_paths.get_folder_paths(kind)}
    return sorted(folders | {folder_paths.get_input_directory(), folder_paths.get_output_directory()})


def _files_named_by(value: Any, folders: list[str]) -> Iterator[tuple[str, int, int]]:
    """Files that a widget's value may name in one of the folders: path, bytes, time in nanoseconds."""
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_NAME or "\n" in value:
        return
    plain = value.removesuffix(" [input]").removesuffix(" [output]").removesuffix(" [temp]")
    for folder in folders:
        path = Path(os.path.join(folder, plain))
        try:
            if path.is_file():
                status = path.stat()
                yield str(path), status.st_size, status.st_mtime_ns
        except (OSError, ValueError):
            continue
