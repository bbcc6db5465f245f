"""Work for the processes of test_workers.py. A module of its own, with few imports: each process loads it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path


def make_work(folder: Path) -> Callable[[str], str]:
    """Work that notes in `folder` which process did which task."""
    return partial(_work, folder)


def _work(folder: Path, task: str) -> str:
    (folder / f"{task} {os.getpid()}").touch()
    if task.startswith("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    if task.startswith("raises"):
        raise RuntimeError("a fault")
    if task.startswith("sleeps"):
        time.sleep(600)
    if task.startswith("naps"):
        time.sleep(2)
    return task.upper()
