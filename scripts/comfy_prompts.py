"""Finds the texts that rule a workflow's films: what a caller means by "prompt" and by "negative".

A text encoder is a node with a CLIP and a text for it, whatever its class is called. Its text is a prompt if the node's
conditioning arrives at an input called `positive`, and a negative one if it arrives at `negative`. Where nothing is
called `positive`, every text that is no negative one is a prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from scripts.comfy_inputs import ObjectInfo
from scripts.comfy_workflow import Workflow, is_link

Role = Literal["prompt", "negative"]
ROLES: tuple[Role, ...] = ("prompt", "negative")

_CONDITIONING = "CONDITIONING"


def texts_of(role: Role, workflow: Workflow, object_info: ObjectInfo) -> set[tuple[str, str]]:
    """The inputs that hold the texts of a role: {(node id, input name)}."""
    graph = _Graph(workflow, object_info)
    negative = graph.encoders_behind("negative")
    if role == "negative":
        return graph.texts(negative)
    return graph.texts(graph.encoders_behind("positive") or graph.encoders() - negative)


class _Graph:
    """A workflow with what the server says of its nodes."""

    def __init__(self, workflow: Workflow, object_info: ObjectInfo) -> None:
        self._workflow = workflow
        self._info = {node_id: object_info.get(node["class_type"], {}) for node_id, node in workflow.items()}

    def encoders(self) -> set[str]:
        """Ids of all text encoders."""
        return {
            node_id
            for node_id, info in self._info.items()
            if _CONDITIONING in info.get("output", ())
            and any(kind == "CLIP" for _, kind, _ in _inputs(info))
            and self._texts_for_encoder(node_id)
        }

    def encoders_behind(self, name: str) -> set[str]:
        """Ids of the text encoders whose conditioning arrives at an input of this name."""
        links = [node["inputs"].get(name) for node in self._workflow.values()]
        return self._sources([link for link in links if is_link(link)]) & self.encoders()

    def texts(self, encoders: set[str]) -> set[tuple[str, str]]:
        """The inputs that hold the texts of these encoders, found through whatever hands a text on."""
        found: set[tuple[str, str]] = set()
        open_inputs = [(node_id, name) for node_id in encoders for name in self._texts_for_encoder(node_id)]
        seen = set(open_inputs)
        while open_inputs:
            node_id, name = open_inputs.pop()
            value = self._workflow[node_id]["inputs"].get(name)
            if not is_link(value):
                found.add((node_id, name))
                continue
            source = str(value[0])
            texts = {(source, name) for name, kind, _ in _inputs(self._info.get(source, {})) if kind == "STRING"}
            open_inputs += texts - seen
            seen |= texts
        return found

    def _texts_for_encoder(self, node_id: str) -> list[str]:
        return [
            name
            for name, kind, options in _inputs(self._info[node_id])
            if kind == "STRING" and options.get("multiline")
        ]

    def _sources(self, links: list[Any]) -> set[str]:
        """Ids of all nodes whose conditioning comes through these links."""
        found: set[str] = set()
        seen: set[tuple[str, int]] = set()
        while links:
            source, slot = str(links[-1][0]), links.pop()[1]
            if source not in self._workflow or (source, slot) in seen:
                continue
            seen.add((source, slot))
            found.add(source)
            links += self._conditionings(source, slot)
        return found

    def _conditionings(self, node_id: str, slot: int) -> Iterator[Any]:
        """The links that bring a node the conditioning which it hands on at an output.

        A node that has a positive and a negative way through it keeps them apart by name.
        """
        info, inputs = self._info[node_id], self._workflow[node_id]["inputs"]
        taken = [name for name, kind, _ in _inputs(info) if kind == _CONDITIONING]
        names = info.get("output_name") or ()
        same_way = names[slot] if slot < len(names) else None
        for name in [same_way] if same_way in taken else taken:
            if is_link(inputs.get(name)):
                yield inputs[name]


def _inputs(info: Mapping[str, Any]) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Name, kind and options of every input that the server describes."""
    for group in ("required", "optional"):
        for name, (kind, *rest) in info.get("input", {}).get(group, {}).items():
            yield name, kind, rest[0] if rest else {}
