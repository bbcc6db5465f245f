"""A described workflow in ComfyUI's two formats: what its page opens, and what its queue takes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from scripts.comfy_inputs import described_widgets
from scripts.workflow_description import Graph, Node, Wire
from scripts.workflow_layout import Layout, lay_out

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
