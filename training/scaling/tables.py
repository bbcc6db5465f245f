"""Tables in Markdown, whose columns also line up in a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, the others, numbers, to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [_line(header, widths), _line(rule, widths), *(_line(row, widths) for row in rows)]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.rjust(width) if index else cell.ljust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "| " + " | ".join((first, *others)) + " |"


def gigabytes(count: float) -> str:
    """Bytes as GB of 10^9, e.g. "287.54"; two digits after the point below 10, one above."""
    return decimal(count / 1e9)


def decimal(number: float) -> str:
    """Three digits or so: 0.15, 3.34, 93.2, 1678."""
    if number == 0:
        return "0"
    magnitude = abs(number)
    return f"{number:.2f}" if magnitude < 10 else f"{number:.1f}" if magnitude < 1000 else f"{number:,.0f}"
