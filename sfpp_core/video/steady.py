"""A video at another rate: the picture that is shown at each tick of a clock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

CLOCK_ERROR_SECONDS = 1e-3
"""Containers that count in milliseconds show a picture up to one too late."""


def shown_at(
    pictures: Iterable[tuple[float, np.ndarray]], start: float, rate: float, count: int
) -> Iterator[np.ndarray]:
    """The pictures that are in view at `start`, `start` + 1 / rate, ..., `count` of them; the last stays in view.

    pictures: times in seconds, rising, and pictures; the first is in view at `start`, too. Fewer than `count` are given
    only if there is none at all.
    """
    shown, tick = None, 0
    for time, picture in pictures:
        while shown is not None and tick < count and start + tick / rate < time - CLOCK_ERROR_SECONDS:
            yield shown
            tick += 1
        if tick == count:
            return
        shown = picture
    while shown is not None and tick < count:
        yield shown
        tick += 1
