"""Films that are measured while they are made: pictures go in piece by piece, a measurement of every frame comes out.

The core measures by reading a `Footage`, and films are made side by side. So each film has a thread of its own, which
reads what is pushed and waits for more; OpenCV works without the interpreter's lock, so the threads use many cores
where there are many. Nothing is kept of a film but its measurements, 2 kB a frame.

Axes: B film, F frame, H height, W width, C colour.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np

from sfpp_core.stability.measure import FrameSeries, measure
from sfpp_core.video.span import Footage
from sfpp_core.wan.config import FRAMES_PER_SECOND

PIECES_AHEAD = 4
"""Pieces of a film that may wait to be measured; whoever makes them then waits."""
WATCH_SECONDS = 1.0
"""Between looks at whether a measurement that is waited for still lives."""


class FilmCutShort(RuntimeError):
    """A film ended before it had as many frames as were announced."""


class FilmFeed:
    """A film of known length whose pictures arrive while it is read, once and in order: a `Source` of the core."""

    path: Path | None = None

    def __init__(self, name: str, num_frames: int, size: tuple[int, int]) -> None:
        """size: height and width of the pictures."""
        self.name = name
        self.size = size
        self.num_frames = num_frames
        self.duration = num_frames / FRAMES_PER_SECOND
        self._pieces: queue.Queue[np.ndarray | None] = queue.Queue(PIECES_AHEAD)

    def offer(self, piece: np.ndarray | None) -> bool:
        """The next frames, uint8 F H W C, or None for an end; False if there was no room for a while."""
        try:
            self._pieces.put(piece, timeout=WATCH_SECONDS)
        except queue.Full:
            return False
        return True

    def pictures(self, start: float, end: float, min_gap: float) -> Iterator[tuple[float, np.ndarray]]:
        """See Source. Every picture from the first on: a film that is not kept cannot be searched."""
        shown = 0
        while shown < self.num_frames:
            piece = self._pieces.get()
            if piece is None:
                raise FilmCutShort(f"{self.name} ended after {shown} of {self.num_frames} frames.")
            for picture in piece:
                yield shown / FRAMES_PER_SECOND, picture
                shown += 1

    def digest(self) -> str:
        """See Source: the name stands for the content, which is nowhere."""
        return self.name


class Measuring:
    """A context manager that measures films side by side.

    Raises on leaving, unless another error is on its way: FilmCutShort for a film that has not come to its end.
    """

    def __init__(self, names: list[str], num_frames: int, size: tuple[int, int]) -> None:
        self._feeds = [FilmFeed(name, num_frames, size) for name in names]
        self._pool = ThreadPoolExecutor(len(names), thread_name_prefix="measure")
        self._measured: list[Future[FrameSeries]] = []

    @property
    def footages(self) -> list[Footage]:
        """The films as the core knows them."""
        return [Footage(source=feed, start=0.0, end=feed.duration) for feed in self._feeds]

    def __enter__(self) -> Measuring:
        self._measured = [self._pool.submit(measure, footage) for footage in self.footages]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for feed, future in zip(self._feeds, self._measured, strict=True):
            while not future.done() and not feed.offer(None):
                pass
        self._pool.shutdown()
        if kind is None:
            self.series()

    def push(self, films: np.ndarray) -> None:
        """The next frames of every film, uint8 B F H W C. Raises what a measurement raised."""
        for feed, future, piece in zip(self._feeds, self._measured, films, strict=True):
            while not feed.offer(piece):
                if future.done():
                    future.result()

    def series(self) -> list[FrameSeries]:
        """The measurements of the whole films; waits for them. Raises what a measurement raised."""
        return [future.result() for future in self._measured]
