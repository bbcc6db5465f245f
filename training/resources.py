"""What a run uses of its machine."""

from __future__ import annotations

import sys

import torch


def peak_memory(device: torch.device) -> dict[str, float]:
    """Most memory that this process has had, in GiB: of its GPU, or of the machine on a CPU; nothing on Windows."""
    if device.type == "cuda":
        return {"peak_memory_gib": torch.cuda.max_memory_allocated(device) / 2**30}
    if sys.platform == "win32":
        return {}
    import resource

    unit = 1 if sys.platform == "darwin" else 2**10
    return {"peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30}
