"""A span of a video that is read as often as needed, one picture at a time: of a file, or of pictures in memory.

Axes: T frames, H height, W width, C colours (RGB).
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from ..wan.config import FRAMES_PER_SECOND
from .reader import VideoFileError, VideoReader
from .writer import VideoWriter

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
        ValueError: `images` has another shape or no pictures in it, holds NaN or infinity, or `fps` is not above 0.
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
            raise ValueError("the images hold non-finite values (NaN or infinity); what made them overflowed.")
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


MAX_RATE: Final = float(FRAMES_PER_SECOND)
"""Pictures a second that are looked at; Wan's own rate, for which the paper's metrics are defined."""

# Containers that count in milliseconds show a picture up to one too early.
_CLOCK_ERROR_SECONDS: Final = 1e-3
_MAX_DENOMINATOR: Final = 1001


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoSpan:
    """A span of a video, or all of it. Memory is that of one picture, whatever the length.

    Times are seconds since the first picture of the whole video.
    """

    source: Source
    start: float
    end: float

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= self.source.duration:
            raise ValueError(
                f"{self.name}: no span from {self.start} to {self.end} seconds; the video lasts "
                f"{self.source.duration:.2f} seconds, and a span ends after it starts."
            )

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> VideoSpan:
        """The whole of a video file.

        Raises:
            FileNotFoundError: there is no such file.
            VideoFileError: it is no video, has no pictures in it, is damaged or cut short.
        """
        return cls._whole_of(FileSource(Path(path)))

    @classmethod
    def from_images(cls, images: Tensor, fps: float = MAX_RATE) -> VideoSpan:
        """Pictures in memory, T H W C in [0, 1], one every 1 / `fps` seconds; they must not change while in use.

        Raises:
            ValueError: `images` has another shape or no pictures in it, holds NaN or infinity, or `fps` is not
                above 0.
        """
        return cls._whole_of(ImageSource(images, fps))

    @classmethod
    def _whole_of(cls, source: Source) -> VideoSpan:
        return cls(source=source, start=0.0, end=source.duration)

    @property
    def name(self) -> str:
        """The name that messages use: the file's."""
        return self.source.name

    @property
    def path(self) -> Path | None:
        """The file, if there is one."""
        return self.source.path

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures in pixels."""
        return self.source.size

    @property
    def duration(self) -> float:
        """Seconds from the start of the span to its end."""
        return self.end - self.start

    @property
    def whole(self) -> VideoSpan:
        """The whole video that this is a span of."""
        return self._whole_of(self.source)

    @property
    def is_whole(self) -> bool:
        """Return whether nothing is left out."""
        return self == self.whole

    def segment(self, start: float, end: float) -> VideoSpan:
        """The span from `start` to `end`, seconds of the whole video; an end beyond the last picture means the last.

        Raises:
            ValueError: there is no such span.
        """
        return replace(self, start=start, end=min(end, self.source.duration))

    def frames(self, max_rate: float = MAX_RATE) -> Iterator[tuple[float, np.ndarray]]:
        """The time of each picture in seconds of the whole video, and the picture: uint8 RGB H W C, at full size.

        max_rate: pictures a second at most. Every n-th of the video's own pictures is given, so that steady motion
            stays steady: 15 a second of 30, 12 of 24. None is given twice; where the rate varies, time decides.

        Raises:
            VideoFileError: the file is damaged or cut short; raised when the gap is reached.
        """
        if not max_rate > 0:
            raise ValueError(f"max_rate is {max_rate}; it must be above 0, e.g. {MAX_RATE:g}.")
        return self.source.pictures(self.start, self.end, max(0.0, 1 / max_rate - _CLOCK_ERROR_SECONDS))

    def fingerprint(self) -> str:
        """SHA-256 of content and span: equal for equal footage, also after a copy of the file; for caches."""
        return hashlib.sha256(f"{self.source.digest()} {self.start!r} {self.end!r}".encode()).hexdigest()

    def mp4(self) -> bytes:
        """The span as an MP4 file: the file's own bytes if it is the whole of one, else at most 16 frames a second.

        Raises:
            VideoFileError: the file is damaged or cut short.
        """
        if self.is_whole and self.path is not None and self.path.suffix.lower() == ".mp4":
            return self.path.read_bytes()
        height, width = (side + side % 2 for side in self.size)
        rate = self._steady_rate()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "span.mp4"
            with VideoWriter(path, width, height, fps=rate) as writer:
                for picture in self._steady_frames(rate):
                    # H.264 takes even sizes only: an odd one grows by a copy of its last row or column.
                    padding = ((0, height - self.size[0]), (0, width - self.size[1]), (0, 0))
                    writer.write(torch.from_numpy(np.pad(picture, padding, mode="edge"))[None])
            return path.read_bytes()

    def _steady_rate(self) -> Fraction:
        """The average rate of `frames`."""
        rate = self.source.num_frames / self.source.duration
        return Fraction(rate / math.ceil(rate / MAX_RATE - 0.01)).limit_denominator(_MAX_DENOMINATOR)

    def _steady_frames(self, rate: Fraction) -> Iterator[np.ndarray]:
        """The picture that is shown in the middle of each tick of a clock of `rate`."""
        shown, tick = None, 0
        for time, picture in self.frames():
            while shown is not None and self.start + (tick + 0.5) / rate < time:
                yield shown
                tick += 1
            shown = picture
        if shown is not None:
            for _ in range(tick, max(tick + 1, round(self.duration * rate))):
                yield shown
