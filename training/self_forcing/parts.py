"""What parts of a process's share of a batch remember, as one: as a checkpoint takes it, whatever the parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def together(states: Sequence[Any]) -> Any:
    """States of equal parts, in order, as that of all their samples.

    Nested dicts and lists of tensors, which have samples on their first axis, and of plain values, equal in all parts.
    """
    first = states[0]
    if isinstance(first, Tensor):
        return torch.cat(list(states))
    if isinstance(first, dict):
        return {key: together([state[key] for state in states]) for key in first}
    if isinstance(first, list):
        return [together(entries) for entries in zip(*states, strict=True)]
    return first


def apart(state: Any, count: int) -> list[Any]:
    """What `together` made of `count` states."""
    if isinstance(state, Tensor):
        return list(state.chunk(count))
    if isinstance(state, dict):
        pieces = {key: apart(value, count) for key, value in state.items()}
        return [{key: piece[part] for key, piece in pieces.items()} for part in range(count)]
    if isinstance(state, list):
        pieces = [apart(value, count) for value in state]
        return [[piece[part] for piece in pieces] for part in range(count)]
    return [state] * count
