"""Workflows in API format: read them, and set their widgets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Workflow = Mapping[str, Mapping[str, Any]]
"""Node id -> {"class_type": ..., "inputs": {name: value or [node id, output]}}."""


def load_workflow(path: Path) -> Workflow:
    """Read a workflow in API format.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file holds something else, such as a workflow saved for the page.
    """
    try:
        workflow = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no workflow: {error}") from error
    if not isinstance(workflow, dict) or not all(_is_node(node) for node in workflow.values()):
        raise ValueError(f"{path} is no workflow in API format; {_what_to_queue_instead(path)}")
    return workflow


def is_link(value: Any) -> bool:
    """Whether an input's value comes from another node: [node id, output]."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[1], int)


def _is_node(node: Any) -> bool:
    return isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)


def _what_to_queue_instead(path: Path) -> str:
    sibling = path.parent / "api" / path.name
    if sibling.is_file():
        return f"queue {sibling}, which is the same workflow in that format"
    return "in ComfyUI choose Workflow > Export (API)"


def title_of(node: Mapping[str, Any]) -> str:
    """What a node is called on the page: the title that its author gave it, or else its class."""
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, Mapping) else None
    return str(title or node["class_type"])


def nodes_of_class(workflow: Workflow, class_type: str) -> list[str]:
    """Ids of the nodes of one class."""
    return [node_id for node_id, node in workflow.items() if node["class_type"] == class_type]


def with_inputs(workflow: Workflow, class_type: str, **values: Any) -> Workflow:
    """A copy of the workflow with widgets of its one node of a class set; the original stays as it is.

    Raises:
        ValueError: there is not exactly one such node, or it has no such input.
    """
    found = nodes_of_class(workflow, class_type)
    if len(found) != 1:
        raise ValueError(f"the workflow has {len(found)} nodes of class {class_type}; it has to have one to be set")
    node = workflow[found[0]]
    unknown = sorted(values.keys() - node["inputs"].keys())
    if unknown:
        raise ValueError(f"{class_type} has no input {', '.join(unknown)}; it has {', '.join(node['inputs'])}")
    return {**workflow, found[0]: {**node, "inputs": {**node["inputs"], **values}}}
