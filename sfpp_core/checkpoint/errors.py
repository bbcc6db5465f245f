"""The one error that opening a checkpoint raises."""

from __future__ import annotations

from pathlib import Path

WANTED = "a Wan 2.1 text-to-video transformer"
"""What every refused file is not."""


class CheckpointError(ValueError):
    """A file cannot be used as a Wan 2.1 text-to-video transformer; the message is a sentence for an artist."""

    def __init__(
        self, path: Path, *, found: str, remedy: str, expected: str = WANTED, other_loader: bool = False
    ) -> None:
        """Say what is wrong with a file.

        Args:
            path: the file or folder that was to be opened.
            found: what it is.
            remedy: what to do about it.
            expected: what should have been there.
            other_loader: whether the weights may be usable, but by a loader that knows their format.
        """
        super().__init__(f"{path}: found {found}; expected {expected}. {remedy}")
        self.other_loader = other_loader
        self.path = path
        self.found = found
        self.expected = expected
        self.remedy = remedy


def first_few(names: list[str], *, limit: int = 5) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
