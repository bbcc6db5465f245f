"""What tables show besides means, by its names in report.json."""

from __future__ import annotations

from typing import Final

CHANGE: Final = "change_since_shortest"
"""Of each film, since its shortest length."""
MULTIPLE: Final = "multiple_of_truth"
_DIFFERENCE: Final = "difference_from_"


def difference_from(baseline: str) -> str:
    """Films less those of an arm, of the same prompt and seed."""
    return f"{_DIFFERENCE}{baseline}"


def baseline_of(kind: str) -> str | None:
    """The arm that differences are from; None for what is no difference."""
    return kind.removeprefix(_DIFFERENCE) if kind.startswith(_DIFFERENCE) else None


def is_signed(kind: str) -> bool:
    """Whether figures are written with their sign, as 0 says that there is nothing between two films."""
    return kind == CHANGE or baseline_of(kind) is not None
