"""What a network, or a part of one, is given and gives, noted as it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A call of a module."""

    inputs: tuple[Any, ...]
    keywords: dict[str, Any]
    output: Tensor
    """Without its graph."""


@contextmanager
def calls_of(module: nn.Module) -> Iterator[list[Call]]:
    """The calls of a module inside the block, in order; they are made as they would be without this."""
    calls: list[Call] = []

    def note(_: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any], output: Tensor) -> None:
        calls.append(Call(inputs=inputs, keywords=keywords, output=output.detach()))

    handle = module.register_forward_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()
