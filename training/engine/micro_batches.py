"""Gradient accumulation: a batch in parts that fit into memory.

State of the parts is merged and split, so that checkpoints do not depend on `accumulate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..config import require

BatchT = TypeVar("BatchT")


def micro_batches(batch: BatchT, count: int) -> list[BatchT]:
    """The batch in `count` equal parts, in order.

    batch: a dataclass whose tensors, lists and ranges have samples on their first axis; or one such thing by itself.
        A dataclass has a field `samples`, which ones they are of the global batch (see `DistContext.samples`), so that
        noise drawn for them is that of the whole batch (see `seeding.normal`). What has no axis is left as it is.

    Raises:
        ConfigError: the batch cannot be cut so, or does not say which samples it holds.
    """
    if count == 1:
        return [batch]
    samples = batch if isinstance(batch, range) else getattr(batch, "samples", None)
    require(
        isinstance(samples, range),
        f"accumulate is {count}, but this stage cannot tell the samples of a batch apart; write accumulate=1.",
    )
    size = len(samples)
    require(
        size % count == 0,
        f"accumulate is {count} for {size} samples a step in each process; they must be a multiple of it.",
    )
    share = size // count
    return [_cut(batch, slice(start, start + share)) for start in range(0, size, share)]


def _cut(value: BatchT, part: slice) -> BatchT:
    if is_dataclass(value):
        return replace(value, **{field.name: _cut(getattr(value, field.name), part) for field in fields(value)})
    has_samples = value.ndim > 0 if isinstance(value, Tensor) else isinstance(value, Sequence)
    return value[part] if has_samples and not isinstance(value, str) else value


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
    """Return what `together` made of `count` states."""
    if isinstance(state, Tensor):
        return list(state.chunk(count))
    if isinstance(state, dict):
        pieces = {key: apart(value, count) for key, value in state.items()}
        return [{key: piece[part] for key, piece in pieces.items()} for part in range(count)]
    if isinstance(state, list):
        pieces = [apart(value, count) for value in state]
        return [[piece[part] for piece in pieces] for part in range(count)]
    return [state] * count
