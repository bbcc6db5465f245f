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
        ValueError: the file holds something else, such as a workflow saved for the page.
    """
    workflow = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(workflow, dict) or not all(isinstance(n, dict) and "class_type" in n for n in workflow.values()):
        raise ValueError(f"{path} is no workflow in API format; in ComfyUI choose Workflow > Export (API)")
    return workflow


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
