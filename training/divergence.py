"""When training must not go on."""

from __future__ import annotations

import math


class TrainingDiverged(RuntimeError):
    """A loss or a gradient is no longer a number, or has exploded; the message says what to do."""


def require_finite(name: str, value: float) -> None:
    """Raise TrainingDiverged if `value` is NaN or infinite."""
    if not math.isfinite(value):
        raise TrainingDiverged(f"{name} is {value}")
