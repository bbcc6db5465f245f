"""Peak memory of a program, measured in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STATUS = Path("/proc/self/status")

# glibc gives freed memory back at once, so that the peak is the program's own and not the allocator's: without this it
# moves by many MiB from run to run.
STEADY_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}


needs_peak = pytest.mark.skipif(not STATUS.exists(), reason="peak memory is read from /proc, which only Linux has")


def peak_mib() -> float:
    """Most memory that this process has held so far.

    Not getrusage's ru_maxrss: that starts at what the parent process held, which hides all that stays below it.
    """
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def probe(program: str, *arguments: str) -> list[float]:
    """The numbers that `program` (Python, in the repository's root) prints on its only line."""
    command = [sys.executable, "-c", program, *arguments]
    environment = {**os.environ, **STEADY_MALLOC, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=300)
    return [float(word) for word in result.stdout.split()]
