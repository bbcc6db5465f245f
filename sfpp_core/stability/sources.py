"""Where footage comes from: a file, or pictures in memory.

Axes: T frames, H height, W width, C colours (RGB).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..video.reader import VideoFileError, VideoReader

_HASH_PIECE_BYTES = 1 << 20


class Source(Protocol):
    """A whole video, on a clock that starts at its first picture."""

    name: str
    path: Path | None
    size: tuple[int, int]
    """Height and width in pixels."""
    duration: float
    """Seconds until the last picture goes."""
    num_frames: int

    def pictures(self, start: float, end: float, min_gap: float) -> Iterator[tuple[float, np.ndarray]]:
        """Time and picture (uint8 H W C) of what is shown from `start` to before `end`, at least `min_gap` apart."""
        ...

    def digest(self) -> str:
        """SHA-256 of the content."""
        ...


class FileSource:
    """A video file. An alpha channel is left out, as players and ComfyUI do.

    Raises:
        FileNotFoundError: there is no such file.
        VideoFileError: it is no video, has no pictures in it, is damaged or cut short.
    """

    def __init__(self, path: Path) -> None:
        self.path: Path | None = path
        self.name = path.name
        with VideoReader(path) as reader:
            timeline = reader.timeline()
            self.size = reader.size
            usual_gap = float(1 / reader.fps) if reader.fps else 0.0
        self.num_frames = timeline.num_frames
        self._origin = timeline.start
        # Some containers do not say how long the last picture stays.
        self.duration = timeline.end - timeline.start or usual_gap
        if not (min(self.size) > 0 and self.duration > 0):
            raise VideoFileError(f"{self.name} has no pictures of any size or length in it.")
        self._path = path

    def pictures(self, start: float, end: float, min_gap: float) -> Iterator[tuple[float, np.ndarray]]:
        """See Source."""
        first = self._origin + start if start > 0 else -math.inf
        last = self._origin + end if end < self.duration else math.inf
        with VideoReader(self._path) as reader:
            for time, picture in reader.pictures(first, last, min_gap=min_gap):
                yield time - self._origin, picture

    def digest(self) -> str:
        """See Source."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        content = hashlib.sha256()
        with self._path.open("rb") as file:
            while piece := file.read(_HASH_PIECE_BYTES):
                content.update(piece)
        return content.hexdigest()


class ImageSource:
    """Pictures T H W C in memory, floating point in [0, 1]; what lies beyond is clamped, a fourth channel left out.

    Raises:
        ValueError: `images` has another shape or no pictures in it, holds what are no numbers, or `fps` is not above 0.
    """

    name = "the images"
    path: Path | None = None

    def __init__(self, images: Tensor, fps: float) -> None:
        if images.ndim != 4 or images.shape[-1] not in (3, 4) or 0 in images.shape:
            raise ValueError(
                f"the images are {tuple(images.shape)}; expected number, height, width, 3 colours, each at least 1."
            )
        if not (fps > 0 and math.isfinite(fps)):
            raise ValueError(f"fps is {fps}; it must be above 0, e.g. 16.")
        if not torch.isfinite(images).all():
            raise ValueError("the images hold values that are no numbers (NaN or infinity); what made them overflowed.")
        self._images = images
        self._fps = float(fps)
        self.size = (images.shape[1], images.shape[2])
        self.num_frames = len(images)
        self.duration = len(images) / self._fps

    def pictures(self, start: float, end: float, min_gap: float) -> Iterator[tuple[float, np.ndarray]]:
        """See Source."""
        due = start
        for index in range(max(0, math.floor(start * self._fps)), self.num_frames):
            time = index / self._fps
            if time >= end:
                return
            if time >= due:
                due = time + min_gap
                yield time, self._picture(index)

    def digest(self) -> str:
        """See Source."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        content = hashlib.sha256(f"{tuple(self._images.shape)} {self._fps}".encode())
        for index in range(self.num_frames):
            content.update(self._picture(index).tobytes())
        return content.hexdigest()

    def _picture(self, index: int) -> np.ndarray:
        picture = self._images[index, ..., :3].detach().float().cpu().clamp(0, 1)
        return picture.mul(255).round().to(torch.uint8).numpy()
