"""Video files, read a few frames at a time.

Axes: T frames, H height, W width, C colours (RGB).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Final

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from torch import Tensor

from ..files import require_readable
from .display import Display

# Containers find key frames by the time of decoding, which may be earlier than that of showing by some frames.
SEEK_MARGIN_SECONDS: Final = 1.0


class VideoFileError(ValueError):
    """A file that is no readable video; says which, and what is wrong with it."""


FORMATS: Final = (
    *(
        "mov",
        "matroska",
        "avi",
        "gif",
        "apng",
        "mpegts",
        "mpeg",
        "mpegvideo",
        "m4v",
        "h264",
        "hevc",
        "ivf",
        "flv",
        "asf",
    ),
    *("ogg", "nut", "mxf", "wav", "mp3", "flac", "aac", "webp"),
)
"""Containers that are opened. Not among them are playlists and descriptions, which make FFmpeg open other files."""


def open_container(path: Path) -> InputContainer:
    """Open a media file, and only it: no playlist, no other file that it names, nothing from the network.

    Raises:
        FileNotFoundError: there is no such file.
        PermissionError: it may not be read.
        VideoFileError: it is of no known kind, damaged or cut short.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; choose a video file.")
    if not path.is_file():
        raise VideoFileError(f"{path.name} is no file; choose a video file.")
    require_readable(path)
    allowed = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file"}
    try:
        # Tags are in any encoding.
        return av.open(str(path), "r", options=allowed, metadata_errors="replace")
    except (av.FFmpegError, ValueError, OSError) as error:
        raise VideoFileError(
            f"{path.name} is no video that can be read ({type(error).__name__}); it may be cut short, or of "
            f"another kind than {', '.join(FORMATS[:4])} and the like."
        ) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeline:
    """The times at which frames are shown, in seconds on the stream's own clock, which need not start at 0."""

    start: float
    end: float
    """When the last picture goes."""
    num_frames: int


class VideoReader:
    """A context manager that gives the frames of a video file's first video stream, as a player shows them.

    Turned and mirrored as the file says, in square pixels, HDR in standard range. Memory is that of the frames asked
    for at a time.

    Raises:
        FileNotFoundError: there is no such file.
        VideoFileError: it is no video, has no pictures in it, is damaged or cut short.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._container = open_container(self.path)
        if not self._container.streams.video:
            self._container.close()
            raise VideoFileError(f"{self.path.name} has no video stream in it; it is cut short, or no video.")
        self._stream: VideoStream = self._container.streams.video[0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures in pixels."""
        return self._display.size

    @cached_property
    def _display(self) -> Display:
        for _, frame in self._frames(-math.inf):
            codec = self._stream.codec_context
            return Display(
                frame, self._stream.sample_aspect_ratio, transfer=codec.color_trc, primaries=codec.color_primaries
            )
        raise VideoFileError(f"{self.path.name} has a video stream without a single frame in it.")

    @property
    def fps(self) -> Fraction | None:
        """Frames per second, averaged over the file; None if the file does not say."""
        return self._stream.average_rate

    @property
    def metadata(self) -> dict[str, str]:
        """The container's tags."""
        return dict(self._container.metadata)

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def chunks(self, max_frames: int) -> Iterator[Tensor]:
        """Yield all frames, float32 [T, H, W, C] in [0, 1]; T is `max_frames`, in the last chunk maybe less."""
        if max_frames < 1:
            raise ValueError(f"max_frames is {max_frames}; a chunk has at least 1 frame.")
        frames: list[Tensor] = []
        for _, picture in self.pictures():
            frames.append(torch.from_numpy(picture).float() / 255)
            if len(frames) == max_frames:
                yield torch.stack(frames)
                frames = []
        if frames:
            yield torch.stack(frames)

    def pictures(
        self, start: float = -math.inf, end: float = math.inf, *, min_gap: float = 0.0
    ) -> Iterator[tuple[float, np.ndarray]]:
        """The time of each picture in seconds on the stream's clock, and the picture, uint8 H W C.

        start, end: only pictures that appear in this span, `end` not included.
        min_gap: seconds from one picture to the next at least; those between are left out.
        """
        due, display = start, self._display
        for time, frame in self._frames(start):
            if time >= end:
                return
            if time < due:
                continue
            due = time + min_gap
            yield time, display.show(frame)

    def timeline(self) -> Timeline:
        """Read when frames are shown; nothing is decoded: milliseconds for minutes of video."""
        start, end, num_frames, base = math.inf, -math.inf, 0, self._stream.time_base
        try:
            self._container.seek(0)
            for packet in self._container.demux(self._stream):
                shown = packet.dts if packet.pts is None else packet.pts
                if shown is not None and not packet.is_discard:
                    # A packet that the end of the file cuts off is there, but flagged.
                    ends = shown if packet.is_corrupt else shown + (packet.duration or 0)
                    start, end = min(start, shown), max(end, ends)
                    num_frames += 1
        except av.FFmpegError as error:
            raise self._damaged(num_frames, error) from error
        self._require_whole(end, num_frames)
        return Timeline(start=float(start * base), end=float(end * base), num_frames=num_frames)

    def _frames(self, start: float) -> Iterator[tuple[float, VideoFrame]]:
        """Frames with their times, from a key frame before `start` on, or from the first.

        Whether some are missing shows at the end: decoding itself just stops early.
        """
        end, num_frames, time, base = -math.inf, 0, 0.0, self._stream.time_base
        try:
            self._seek(start)
            for packet in self._container.demux(self._stream):
                if packet.pts is not None:
                    end = max(end, packet.pts + (packet.duration or 0))
                for frame in packet.decode():
                    time = float(frame.pts * base) if frame.pts is not None else time + self._usual_gap
                    yield time, frame
                    num_frames += 1
        except av.FFmpegError as error:
            raise self._damaged(num_frames, error) from error
        self._require_whole(end, num_frames)

    def _seek(self, start: float) -> None:
        if start == -math.inf:
            self._container.seek(0)
        else:
            offset = math.floor((start - SEEK_MARGIN_SECONDS) / self._stream.time_base)
            self._container.seek(offset, stream=self._stream)

    @property
    def _usual_gap(self) -> float:
        return float(1 / self.fps) if self.fps else 0.0

    def _damaged(self, num_frames: int, error: av.FFmpegError) -> VideoFileError:
        return VideoFileError(f"{self.path.name} is damaged or cut short; {num_frames} frames could be read ({error}).")

    def _require_whole(self, end: float, num_frames: int) -> None:
        """Raise unless there are frames, and up to the end that the header promises; `end` in ticks of the stream."""
        missing = self._missing_seconds(end)
        if num_frames == 0 and missing == 0:
            raise VideoFileError(f"{self.path.name} has a video stream without a single frame in it.")
        if missing > 0:
            raise VideoFileError(
                f"{self.path.name} is cut short: after {num_frames} frames, {missing:.2f} seconds are missing."
            )

    def _missing_seconds(self, end: float) -> float:
        """Return how much earlier than its header promises a stream ends at `end`; 0 if the header promises nothing.

        Time, and not the number of frames, because a trimmed file still counts the frames that are not shown.
        """
        stream = self._stream
        if stream.duration is None or not stream.average_rate:
            return 0.0
        start = stream.start_time or 0
        missing = (start + stream.duration - max(end, start)) * stream.time_base
        return float(missing) if missing > 1 / (2 * stream.average_rate) else 0.0


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
