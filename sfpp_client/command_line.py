"""What the command lines that talk to a server have in common: ending in order, and a place for what they fetch."""

from __future__ import annotations

import io
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType


def stop_in_order_on_signals() -> None:
    """Have SIGINT and SIGTERM leave through every `finally`, so that what was begun on a server is stopped."""
    signal.signal(signal.SIGTERM, _exit_in_order)
    # A shell starts its background jobs deaf to interrupts; they are to be stopped in order there too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def print_whatever_can_be_shown() -> None:
    """Have stdout write characters that its encoding lacks as escapes, as stderr does: no job fails over a name."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def require_writable(folder: Path) -> None:
    """Make the folder for `--out` before there is a video to lose. Raises OSError if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"--out is {folder}, where no file can be written: {error.strerror}") from error


def _exit_in_order(_signal: int, _frame: FrameType | None) -> None:
    """End with the status that a shell expects after SIGTERM."""
    sys.exit(143)
