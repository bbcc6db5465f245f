"""How many films were delivered unfinished since the server began.

ComfyUI remembers what a node gave and does not ask it again for the same inputs. A film that was cut short by an
interrupt must go on when the workflow is queued again: samplers name this number among their inputs.
"""

from __future__ import annotations

_number = 0


def count() -> None:
    """One more."""
    global _number
    _number += 1


def number() -> int:
    """So many until now."""
    return _number
