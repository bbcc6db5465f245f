"""Where the nodes of a workflow stand on the page, and how large they are.

Sizes are ComfyUI's own: a node is as high as its slots and widgets, and higher once it has run, when a line of text, a
picture or a film appears in it. The room for these is left free from the start, so that no node grows over another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from scripts.comfy_inputs import described_widgets
from scripts.workflow_description import Graph, Group, Node

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
