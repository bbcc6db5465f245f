"""What a workflow in API format lets a caller set, and which values a server accepts there."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scripts.comfy_workflow import Workflow, is_link, title_of

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
        """What the input takes, in words."""
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
        """Whether a decoded JSON value is a number of this kind and within the limits."""
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
