"""What a callable that somebody else put into a MODEL does, as far as that can be told without calling it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch

PLAIN = (type(None), bool, int, float, str, bytes, torch.dtype, torch.device)
DEEPEST = 8
"""Functions that close over functions; some close over themselves."""


def described(thing: Any, *, depth: int = 0) -> str | None:
    """Names and settings of a function, with what it closes over; None where they do not tell all.

    Two functions that one factory made have the same name and differ in what they close over. What an object does may
    depend on anything in it.
    """
    if depth > DEEPEST:
        return None
    if isinstance(thing, PLAIN):
        return repr(thing)
    if isinstance(thing, (BuiltinFunctionType, type)):
        return f"{thing.__module__}.{thing.__qualname__}"
    if isinstance(thing, (tuple, list)):
        name, parts = "", thing
    elif isinstance(thing, partial):
        name, parts = "partial", (thing.func, *thing.args, *_pairs(thing.keywords))
    elif isinstance(thing, FunctionType):
        closed_over = (cell.cell_contents for cell in thing.__closure__ or ())
        name = f"{thing.__module__}.{thing.__qualname__}"
        parts = (*closed_over, *(thing.__defaults__ or ()), *_pairs(thing.__kwdefaults__ or {}))
    else:
        return None
    known = [described(part, depth=depth + 1) for part in parts]
    return None if None in known else f"{name}({', '.join(known)})"


def _pairs(settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(settings.items(), key=lambda item: item[0])
