"""Video files, read a few frames at a time.

Axes: T frames, H height, W width, C colours (RGB).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import torch
from av.container import InputContainer
from av.video.reformatter import ColorRange, VideoReformatter
from av.video.stream import VideoStream
from torch import Tensor


class VideoFileError(ValueError):
    """A file that is no readable video; says which, and what is wrong with it."""


class VideoReader:
    """A context manager that gives the frames of a video file's first video stream, in the order they are shown.

    Rotation tags are not applied. Memory is that of the frames asked for at a time.

    Raises:
        FileNotFoundError: there is no such file.
        VideoFileError: it is no video, has no pictures in it, is damaged or cut short.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._container = self._open()
        if not self._container.streams.video:
            self._container.close()
            raise VideoFileError(f"{self.path.name} has no video stream in it; give a file that shows pictures.")
        self._stream: VideoStream = self._container.streams.video[0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames in pixels."""
        return self._stream.height, self._stream.width

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
        """All frames from the start, as float32 T H W C in [0, 1]; T is `max_frames`, in the last chunk maybe less."""
        if max_frames < 1:
            raise ValueError(f"max_frames is {max_frames}; a chunk has at least 1 frame.")
        frames: list[Tensor] = []
        for frame in self._frames():
            frames.append(frame)
            if len(frames) == max_frames:
                yield torch.stack(frames)
                frames = []
        if frames:
            yield torch.stack(frames)

    def _open(self) -> InputContainer:
        try:
            return av.open(str(self.path), "r")
        except FileNotFoundError:
            raise
        except av.FFmpegError as error:
            raise VideoFileError(
                f"{self.path.name} is no video that can be read ({error}); it may be cut short, or of another kind."
            ) from error

    def _frames(self) -> Iterator[Tensor]:
        """Each frame H W C. Whether some are missing shows at the end: decoding itself just stops early."""
        end, num_frames, to_rgb = 0, 0, VideoReformatter()
        try:
            self._container.seek(0)
            for packet in self._container.demux(self._stream):
                if packet.pts is not None:
                    end = max(end, packet.pts + (packet.duration or 0))
                for frame in packet.decode():
                    # Naming the range makes PyAV before 17 heed the file's colour matrix too.
                    picture = to_rgb.reformat(frame, format="rgb24", dst_color_range=ColorRange.JPEG)
                    yield torch.from_numpy(picture.to_ndarray()).float() / 255
                    num_frames += 1
        except av.FFmpegError as error:
            raise VideoFileError(
                f"{self.path.name} is damaged or cut short; {num_frames} frames could be read ({error})."
            ) from error
        missing = self._missing_seconds(end)
        if num_frames == 0 or missing > 0:
            raise VideoFileError(
                f"{self.path.name} is cut short: after {num_frames} frames, {missing:.2f} seconds are missing."
            )

    def _missing_seconds(self, end: int) -> float:
        """How much earlier than its header promises a stream ends at `end`; 0 if the header promises nothing.

        Time, and not the number of frames, because a trimmed file still counts the frames that are not shown.
        """
        stream = self._stream
        if stream.duration is None or not stream.average_rate:
            return 0.0
        missing = ((stream.start_time or 0) + stream.duration - end) * stream.time_base
        return float(missing) if missing > 1 / (2 * stream.average_rate) else 0.0
