"""What a run uses of its machine."""

from __future__ import annotations

import sys
import time

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


class Pace:
    """Time that steps take, with the wait for their batches and without what is done between them."""

    def __init__(self) -> None:
        self._steps, self._seconds = 0, 0.0
        self.start()

    def start(self) -> None:
        """The next step begins."""
        self._started = time.monotonic()

    def stop(self) -> None:
        """It is done."""
        self._steps += 1
        self._seconds += time.monotonic() - self._started

    def read(self) -> dict[str, float]:
        """Seconds a step since the last reading."""
        mean = self._seconds / self._steps
        self._steps, self._seconds = 0, 0.0
        return {"seconds_per_step": mean}
