"""Workflows in API format: read them, and set their widgets.

Finds the texts that rule a workflow's videos: what a caller means by "prompt" and by "negative".

A text encoder is a node with a CLIP and a text for it, whatever its class is called. Its text is a prompt if the node's
conditioning arrives at an input called `positive`, and a negative one if it arrives at `negative`. Where nothing is
called `positive`, every text that is no negative one is a prompt.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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
    """Return whether an input's value comes from another node: [node id, output]."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[1], int)


def _is_node(node: Any) -> bool:
    return isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)


def _what_to_queue_instead(path: Path) -> str:
    sibling = path.parent / "api" / path.name
    if sibling.is_file():
        return f"queue {sibling}, which is the same workflow in that format"
    return "in ComfyUI choose Workflow > Export (API)"


def title_of(node: Mapping[str, Any]) -> str:
    """Return what a node is called on the page: the title that its author gave it, or else its class."""
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


ObjectInfo = Mapping[str, Mapping[str, Any]]
"""A server's /object_info: node class -> its description."""

NUMBERS = ("INT", "FLOAT")
KINDS = (*NUMBERS, "BOOLEAN", "STRING", "COMBO")

_UPLOADS = ("image_upload", "video_upload", "audio_upload", "file_upload")
_KINDS_OF_JSON = {bool: "BOOLEAN", int: "INT", float: "FLOAT", str: "STRING"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Widget:
    """An input that takes a value instead of a link."""

    kind: str
    """INT, FLOAT, BOOLEAN, STRING or COMBO."""
    minimum: float = -math.inf
    maximum: float = math.inf
    choices: tuple[Any, ...] | None = None
    """Of a COMBO; None if the page asks for them elsewhere."""
    upload_folder: str | None = None
    """The server's folder for files that are uploaded for this input; None if it is not said to take any."""
    default: Any = None

    def parse(self, text: str) -> Any:
        """The value that a text stands for. Raises ValueError saying what is accepted, without a subject."""
        if self.kind == "STRING":
            return text
        if self.kind == "COMBO":
            return self._choice(text)
        value = _json_or_none(text)
        if self.kind == "BOOLEAN" and isinstance(value, bool):
            return value
        if self.kind in NUMBERS and self._accepts(value):
            return float(value) if self.kind == "FLOAT" else value
        raise ValueError(f"takes {self.describe()}")

    def describe(self) -> str:
        """Return what the input takes, in words."""
        if self.kind == "BOOLEAN":
            return "true or false"
        if self.kind == "STRING":
            return "text"
        if self.kind == "COMBO":
            if self.upload_folder is not None:
                return f"a file of the server's {self.upload_folder} folder, or @FILE to upload one"
            if not self.choices:
                return "a choice" if self.choices is None else "a choice of which the server has none"
            return f"one of {_abridged(self.choices)}"
        name = "a whole number" if self.kind == "INT" else "a number"
        bounds = (("from", self.minimum), ("to", self.maximum))
        return " ".join((name, *(f"{word} {bound}" for word, bound in bounds if math.isfinite(bound))))

    def _accepts(self, value: Any) -> bool:
        """Return whether a decoded JSON value is a number of this kind and within the limits."""
        if isinstance(value, bool) or not isinstance(value, int if self.kind == "INT" else int | float):
            return False
        # Python reads NaN and Infinity, which JSON lacks, and whole numbers that no float can hold.
        finite = self.kind == "INT" or abs(value) <= sys.float_info.max
        return finite and self.minimum <= value <= self.maximum

    def _choice(self, text: str) -> Any:
        # A file may lie where no list looks, in a sub-folder for one: the node itself checks that it is there.
        if self.choices is None or self.upload_folder is not None:
            return text
        found = [choice for choice in self.choices if choice == text or json.dumps(choice) == text]
        if not found:
            raise ValueError(f"takes {self.describe()}")
        return found[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """An input of a workflow's node that has, or may be given, a value."""

    node_id: str
    class_type: str
    title: str
    name: str
    widget: Widget
    value: Any
    """What the workflow says; None if it says nothing and the node takes its default."""
    present: bool
    """Whether the workflow says something."""

    @property
    def full_name(self) -> str:
        """The name that no other input of the workflow has."""
        return f"{self.node_id}.{self.name}"

    def names(self) -> tuple[str, ...]:
        """The shorter names, which other inputs may have too."""
        return self.name, f"{self.title}.{self.name}", f"{self.class_type}.{self.name}"


def workflow_inputs(workflow: Workflow, object_info: ObjectInfo) -> list[Input]:
    """Every input that can be set: values that the workflow holds, and widgets that it leaves to their default.

    A value that the server does not describe, such as one of a nested widget, is of the kind that it is now.
    """
    return [
        Input(
            node_id=node_id,
            class_type=node["class_type"],
            title=title_of(node),
            name=name,
            widget=widget,
            value=node["inputs"].get(name, widget.default),
            present=name in node["inputs"],
        )
        for node_id, node in workflow.items()
        for name, widget in _widgets(node, object_info).items()
    ]


def _widgets(node: Mapping[str, Any], object_info: ObjectInfo) -> dict[str, Widget]:
    inputs = node["inputs"]
    described = described_widgets(object_info.get(node["class_type"], {}))
    known = {name: widget for name, widget in described.items() if not is_link(inputs.get(name))}
    for name, value in inputs.items():
        if name not in known and type(value) in _KINDS_OF_JSON:
            known[name] = Widget(kind=_KINDS_OF_JSON[type(value)])
    return known


def described_widgets(info: Mapping[str, Any]) -> dict[str, Widget]:
    """The widgets among the inputs that a server describes for a node class, by name."""
    inputs = info.get("input", {})
    described = {**inputs.get("required", {}), **inputs.get("optional", {})}
    widgets = {name: _widget(kind, rest[0] if rest else {}) for name, (kind, *rest) in described.items()}
    return {name: widget for name, widget in widgets.items() if widget is not None}


def _widget(kind: Any, options: Mapping[str, Any]) -> Widget | None:
    """The widget of an input; None for one that takes links alone."""
    # A list of choices in place of a kind is the older way to say COMBO.
    choices = kind if isinstance(kind, list) else options.get("options")
    kind = "COMBO" if isinstance(kind, list) else kind
    if kind not in KINDS or options.get("forceInput"):
        return None
    uploads = any(options.get(name) for name in _UPLOADS)
    return Widget(
        kind=kind,
        minimum=options.get("min", -math.inf),
        maximum=options.get("max", math.inf),
        choices=tuple(choices) if kind == "COMBO" and choices is not None else None,
        upload_folder=options.get("image_folder", "input") if uploads else None,
        default=options.get("default"),
    )


def _json_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _abridged(choices: tuple[Any, ...], limit: int = 20) -> str:
    words = [str(choice) for choice in choices[:limit]]
    return " | ".join(words) + (f" and {len(choices) - limit} more" if len(choices) > limit else "")


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
