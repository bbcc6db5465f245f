"""The machine that figures were measured with, as reports name it."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, Final

import torch

CPUINFO: Final = Path("/proc/cpuinfo")
"""Where Linux tells its processors."""


def machine_of(device: torch.device) -> dict[str, Any]:
    """What decides times and last digits, JSON. device: where networks run."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def processor(cpuinfo: Path = CPUINFO) -> str | None:
    """The processor's model; None where nothing tells it."""
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return " ".join(value.split())
    return platform.processor() or None
