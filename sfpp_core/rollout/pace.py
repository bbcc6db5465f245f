"""How fast chunks are made, and how long the rest takes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from statistics import median

LATEST = 7
"""Chunks that the pace is judged by. A median of them takes no notice of one that had to wait for the disk."""


class Pace:
    """Told of every chunk when it is finished."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds from any beginning on, never going back."""
        self._clock = clock
        self._last = clock()
        self._seconds: deque[float] = deque(maxlen=LATEST)
        self._is_first = True

    def finished(self, *, is_reused: bool) -> None:
        """A chunk is there: made, or found on disk."""
        now = self._clock()
        # The first one made pays for loading weights and warming kernels, and for replaying the film before it.
        if not is_reused and not self._is_first:
            self._seconds.append(now - self._last)
        self._is_first = self._is_first and is_reused
        self._last = now

    def seconds_left(self, num_chunks: int) -> float | None:
        """How long `num_chunks` more chunks take; None as long as nobody can know."""
        return median(self._seconds) * num_chunks if self._seconds else None


def spoken(seconds: float) -> str:
    """A time as one says it: 40 s, 3 min, 1 h 20 min."""
    if seconds < 55:
        return f"{max(1, round(seconds)) if seconds < 10 else 5 * round(seconds / 5)} s"
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
