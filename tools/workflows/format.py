"""A described workflow in ComfyUI's two formats: what its page opens, and what its queue takes.

Where the nodes of a workflow stand on the page, and how large they are.

Sizes are ComfyUI's own: a node is as high as its slots and widgets, and higher once it has run, when a line of text, a
picture or a video appears in it. The room for these is left free from the start, so that no node grows over another.

What is said of a workflow by hand: its nodes, what they are wired to, and which of them belong together.

Everything else of a workflow's two files follows from this and from the nodes' own descriptions; see workflow_format.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from sfpp_client.workflow import described_widgets


@dataclass(frozen=True, slots=True)
class Wire:
    """An input's value that comes out of another node."""

    node: int
    output: str
    """The output's name, as the page shows it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One node."""

    id: int
    """Stays the same for ever: command lines name it (`--set 3.seconds=60`)."""
    type: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """Widgets that differ from their defaults, and a Wire for each input that is wired."""
    title: str | None = None
    height: int = 0
    """Pixels; at least what the node needs is taken anyway."""
    is_muted: bool = False
    """Stands on the page as an offer and does nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """Nodes below each other, of one width in pixels."""

    width: int
    nodes: tuple[Node, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """A frame with a title around stacks that stand side by side."""

    title: str
    colour: str
    stacks: tuple[Stack, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """A workflow. Its note is what an artist reads first: what to change, what it costs, how videos get longer."""

    name: str
    note: str
    """Markdown."""
    columns: tuple[tuple[Group, ...], ...]
    """From left to right; the groups of a column stand below each other."""

    def nodes(self) -> Iterator[Node]:
        """Return all nodes but the note."""
        for column in self.columns:
            for group in column:
                for stack in group.stacks:
                    yield from stack.nodes


Box = tuple[int, int, int, int]
"""x, y, width, height in pixels. A node's title stands above its box."""

LEFT, TOP = 60, 80
TITLE = 30
BADGE = 30
"""Above a title stands the name of the pack."""
GROUP_TITLE = 40
PADDING = 20
GAP = 40

SLOT, WIDGET, TEXT_WIDGET, EDGE = 20, 24, 54, 8

SPOKEN = 62
"""What a node says while it works."""
PICTURE = 224

NOTE_WIDTH = 400
NOTE_CHARACTERS = 66
"""Of average width in a line of a note."""
NOTE_LINE, NOTE_PARAGRAPH = 13, 10

ROOM = {
    "SFPPSampler": SPOKEN + PICTURE,
    "SFPPExtend": SPOKEN + PICTURE,
    "SFPPPromptSchedule": SPOKEN,
    "SFPPContinueVideo": SPOKEN,
    "SFPPSaveState": SPOKEN,
    "SFPPVisualStability": SPOKEN,
    "PreviewAny": SPOKEN,
    "PreviewImage": PICTURE,
    "LoadImage": PICTURE + WIDGET,
}
"""Pixels that a node grows by when it has run. LoadImage has a button that only the page knows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Boxes on the page."""

    note: Box
    nodes: Mapping[int, Box]
    """By node id."""
    groups: tuple[tuple[Group, Box], ...]


def lay_out(graph: Graph, object_info: Mapping[str, Any]) -> Layout:
    """Place a graph's columns from left to right behind its note."""
    top = TOP + GROUP_TITLE + BADGE + TITLE
    note = (LEFT, top, NOTE_WIDTH, note_height(graph.note))
    nodes: dict[int, Box] = {}
    groups: list[tuple[Group, Box]] = []
    x = LEFT + NOTE_WIDTH + GAP
    for column in graph.columns:
        y, width = TOP, 0
        for group in column:
            nodes.update(_placed(group, x, y, object_info))
            box = _enclosing([nodes[node.id] for stack in group.stacks for node in stack.nodes])
            groups.append((group, box))
            y, width = box[1] + box[3] + GAP, max(width, box[2])
        x += width + GAP
    return Layout(note=note, nodes=nodes, groups=tuple(groups))


def _placed(group: Group, left: int, top: int, object_info: Mapping[str, Any]) -> Iterator[tuple[int, Box]]:
    x = left + PADDING
    for stack in group.stacks:
        y = top + GROUP_TITLE
        for node in stack.nodes:
            y += BADGE + TITLE
            height = max(node.height, node_height(node, stack.width, object_info[node.type]))
            yield node.id, (x, y, stack.width, height)
            y += height
        x += stack.width + GAP


def _enclosing(boxes: list[Box]) -> Box:
    """The frame around the nodes of a group."""
    x = min(box[0] for box in boxes) - PADDING
    y = min(box[1] for box in boxes) - TITLE - BADGE - GROUP_TITLE
    right = max(box[0] + box[2] for box in boxes) + PADDING
    bottom = max(box[1] + box[3] for box in boxes) + PADDING
    return x, y, right - x, bottom - y


def node_height(node: Node, width: int, info: Mapping[str, Any]) -> int:
    """Pixels that a node takes once it has run."""
    widgets = described_widgets(info)
    specifications = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    num_slots = max(len(specifications) - len(widgets), len(info["output"]))
    seeds = sum(name in ("seed", "noise_seed") for name in widgets)
    texts = sum(bool(specifications[name][1].get("multiline")) for name in widgets if len(specifications[name]) > 1)
    height = EDGE + SLOT * num_slots + WIDGET * (len(widgets) - texts + seeds) + TEXT_WIDGET * texts
    room = width if node.type == "SFPPDecodeToVideo" else ROOM.get(node.type, 0)
    return height + (EDGE if widgets else 0) + room


def note_height(markdown: str) -> int:
    """Pixels that a note of NOTE_WIDTH takes."""
    lines = markdown.splitlines()
    rows = sum(-(-len(line) // NOTE_CHARACTERS) for line in lines)
    return 2 * PADDING + NOTE_LINE * rows + NOTE_PARAGRAPH * sum(not line for line in lines)


PAGE_VERSION = 0.4
MUTED = 2
OPTIONAL_SLOT = 7
"""The round shape with a hole that the page gives slots that may stay empty."""
NOTE_COLOURS = {"color": "#432", "bgcolor": "#653"}
INLINE = 100
"""Characters up to which a list of plain values stays on one line."""


def api_format(graph: Graph, object_info: Mapping[str, Any]) -> dict[str, Any]:
    """The workflow as the queue takes it, in the order of the nodes' ids.

    Raises ValueError if a node, an input or an output that the description names does not exist.
    """
    types = {node.id: node.type for node in graph.nodes()}
    nodes = sorted((node for node in graph.nodes() if not node.is_muted), key=lambda node: node.id)
    return {str(node.id): {"class_type": node.type, "inputs": _inputs(node, types, object_info)} for node in nodes}


def page_format(graph: Graph, object_info: Mapping[str, Any]) -> dict[str, Any]:
    """The workflow as the page opens it. Raises ValueError as `api_format`."""
    layout = lay_out(graph, object_info)
    types = {node.id: node.type for node in graph.nodes()}
    ordered = sorted(graph.nodes(), key=lambda node: node.id)
    link_ids = count(1)
    nodes, links = [], []
    for order, node in enumerate(ordered):
        inputs = _inputs(node, types, object_info)
        slots = list(_input_slots(node, inputs, object_info[node.type]))
        for slot, entry in enumerate(slots):
            wire = node.inputs.get(entry["name"])
            if isinstance(wire, Wire):
                entry["link"] = next(link_ids)
                source, output = inputs[entry["name"]]
                kind = object_info[types[wire.node]]["output"][output]
                links.append([entry["link"], int(source), output, node.id, slot, kind])
        nodes.append(_page_node(node, order, slots, inputs, object_info[node.type], layout))
    _connect_outputs(nodes, links)
    note_id = max(types) + 1
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"self-forcing-pp/{graph.name}")),
        "revision": 0,
        "last_node_id": note_id,
        "last_link_id": len(links),
        "nodes": [*nodes, _note(graph, note_id, len(nodes), layout)],
        "links": links,
        "groups": list(_groups(layout)),
        "config": {},
        "extra": {"ds": {"scale": 0.8, "offset": [40, 60]}},
        "version": PAGE_VERSION,
    }


def _inputs(node: Node, types: Mapping[int, str], object_info: Mapping[str, Any]) -> dict[str, Any]:
    """Every widget's value and every wire, in the order of the node's own description."""
    if node.type not in object_info:
        raise ValueError(f"node {node.id} is a {node.type}, which this ComfyUI does not have")
    info = object_info[node.type]
    widgets = described_widgets(info)
    names = [name for group in ("required", "optional") for name in info["input_order"].get(group, [])]
    if unknown := sorted(node.inputs.keys() - set(names)):
        raise ValueError(f"{node.type} has no input {', '.join(unknown)}; it has {', '.join(names)}")
    found = {}
    for name in names:
        if name in node.inputs:
            value = node.inputs[name]
            found[name] = _link(value, types, object_info) if isinstance(value, Wire) else value
        elif name in widgets:
            found[name] = _default(widgets[name])
    return found


def _default(widget: Any) -> Any:
    if widget.default is not None:
        return float(widget.default) if widget.kind == "FLOAT" else widget.default
    return widget.choices[0] if widget.choices else ""


def _link(wire: Wire, types: Mapping[int, str], object_info: Mapping[str, Any]) -> list[Any]:
    names = object_info[types[wire.node]]["output_name"]
    if wire.output not in names:
        raise ValueError(f"{types[wire.node]} has no output {wire.output!r}; it has {', '.join(names)}")
    return [str(wire.node), names.index(wire.output)]


def _input_slots(node: Node, inputs: Mapping[str, Any], info: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Inputs that are no widgets, and widgets that are wired."""
    widgets = described_widgets(info)
    for group in ("required", "optional"):
        for name in info["input_order"].get(group, []):
            is_wired = isinstance(node.inputs.get(name), Wire)
            if name in widgets and not is_wired:
                continue
            kind = info["input"][group][name][0]
            slot = {"name": name, "type": "COMBO" if isinstance(kind, list) else kind, "link": None}
            if name in widgets:
                slot["widget"] = {"name": name}
            elif group == "optional":
                slot["shape"] = OPTIONAL_SLOT
            yield slot


def _page_node(
    node: Node,
    order: int,
    slots: list[dict[str, Any]],
    inputs: Mapping[str, Any],
    info: Mapping[str, Any],
    layout: Layout,
) -> dict[str, Any]:
    outputs = zip(info["output_name"], info["output"], strict=True)
    return {
        "id": node.id,
        "type": node.type,
        **({"title": node.title} if node.title else {}),
        "pos": list(layout.nodes[node.id][:2]),
        "size": list(layout.nodes[node.id][2:]),
        "flags": {},
        "order": order,
        "mode": MUTED if node.is_muted else 0,
        "inputs": slots,
        "outputs": [{"name": name, "type": kind, "links": None} for name, kind in outputs],
        "properties": {"Node name for S&R": node.type},
        "widgets_values": list(_widget_values(node, inputs, info)),
    }


def _widget_values(node: Node, inputs: Mapping[str, Any], info: Mapping[str, Any]) -> Iterator[Any]:
    """By position, as the page stores them; it puts a widget of its own behind every seed."""
    widgets = described_widgets(info)
    for name, value in inputs.items():
        if name not in widgets:
            continue
        yield _default(widgets[name]) if isinstance(node.inputs.get(name), Wire) else value
        if name in ("seed", "noise_seed"):
            yield "fixed"


def _connect_outputs(nodes: list[dict[str, Any]], links: list[list[Any]]) -> None:
    """Enter every link at the end that it comes from."""
    by_id = {node["id"]: node for node in nodes}
    for link, source, slot, *_ in links:
        output = by_id[source]["outputs"][slot]
        output["links"] = [*(output["links"] or []), link]


def _note(graph: Graph, note_id: int, order: int, layout: Layout) -> dict[str, Any]:
    return {
        "id": note_id,
        "type": "MarkdownNote",
        "title": "Read me",
        "pos": list(layout.note[:2]),
        "size": list(layout.note[2:]),
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "properties": {},
        "widgets_values": [graph.note],
        **NOTE_COLOURS,
    }


def _groups(layout: Layout) -> Iterator[dict[str, Any]]:
    for number, (group, box) in enumerate(layout.groups, start=1):
        yield {
            "id": number,
            "title": group.title,
            "bounding": list(box),
            "color": group.colour,
            "font_size": 24,
            "flags": {},
        }


def to_json(value: Any, indent: int = 0) -> str:
    """JSON that a person can read and a version control can compare: short lists of plain values on one line."""
    if not isinstance(value, dict | list) or not value:
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        line = json.dumps(value, ensure_ascii=False)
        if len(line) <= INLINE:
            return line
    margin = " " * (indent + 2)
    if isinstance(value, dict):
        items = [f"{json.dumps(key, ensure_ascii=False)}: {to_json(item, indent + 2)}" for key, item in value.items()]
    else:
        items = [to_json(item, indent + 2) for item in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    body = ",\n".join(margin + item for item in items)
    return f"{opening}\n{body}\n{' ' * indent}{closing}"
