"""What is said of a workflow by hand: its nodes, what they are wired to, and which of them belong together.

Everything else of a workflow's two files follows from this and from the nodes' own descriptions; see workflow_format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


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
    """A workflow. Its note is what an artist reads first: what to change, what it costs, how films get longer."""

    name: str
    note: str
    """Markdown."""
    columns: tuple[tuple[Group, ...], ...]
    """From left to right; the groups of a column stand below each other."""

    def nodes(self) -> Iterator[Node]:
        """All nodes but the note."""
        for column in self.columns:
            for group in column:
                for stack in group.stacks:
                    yield from stack.nodes
