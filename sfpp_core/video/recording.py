"""The sound of a video file.

Axes: C channels, N samples.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import av
import torch
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from torch import Tensor

from .codecs import LAYOUTS, Sound
from .reader import SEEK_MARGIN_SECONDS, VideoReader, open_container

CLOCK_SECONDS: Final = 0.05
"""Containers round the times of sound; what is this far from where it should be was left out on the way."""
NOTICED_SECONDS: Final = 0.1
"""Sound that ends so much later than the pictures is more than the filling of a last packet."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Recording:
    """The sound of a video file in a span of it, as long as the span."""

    sound: Sound | None
    """None if nothing could be decoded. Where the file has no sound, or none that can be decoded, it is silent."""
    is_whole: bool
    """Whether all of it could be decoded."""
    goes_on: bool
    """Whether there is more of it after the span."""


def has_sound(path: str | os.PathLike[str]) -> bool:
    """Return whether a video file has a sound track, decodable or not. Raises as `open_container`."""
    with open_container(Path(path)) as container:
        return bool(container.streams.audio)


def read_recording(path: str | os.PathLike[str], start: float, seconds: float) -> Recording | None:
    """The first sound track of a video file, None if it has none. Memory is that of the span's samples.

    Channels other than mono, stereo and 5.1 are mixed to stereo; the rate is the file's own.

    Args:
        start: of the span, in seconds since the first picture.
        seconds: its length.

    Raises:
        VideoFileError: the file is no video, or cannot be opened.
    """
    with VideoReader(path) as video:
        origin = video.timeline().start + start
    with open_container(Path(path)) as container:
        if not container.streams.audio:
            return None
        return _Decoding(container, container.streams.audio[0], origin, seconds).recording()


class _Decoding:
    """One span of a track under way."""

    def __init__(self, container: InputContainer, stream: AudioStream, origin: float, seconds: float) -> None:
        self._container = container
        self._stream = stream
        self._origin = origin
        self._seconds = seconds
        self._samples: Tensor | None = None
        self._rate = 0
        self._layout = ""
        self._resampler: AudioResampler | None = None
        self._kind: tuple[str, str, int] | None = None
        self._next = 0
        """Where the next samples belong if nothing is missing."""
        self._is_whole = True

    def recording(self) -> Recording:
        goes_on = False
        for frame in self._frames():
            at = self._next / self._rate if self._rate else 0.0
            if frame.pts is not None:
                at = float(frame.pts * frame.time_base) - self._origin
            if at >= self._seconds:
                goes_on = at + frame.samples / frame.sample_rate > self._seconds + NOTICED_SECONDS
                if goes_on:
                    break
                continue
            self._take(frame, at)
            # One frame may be as long as the whole track where it is not compressed.
            goes_on = at + frame.samples / frame.sample_rate > self._seconds + NOTICED_SECONDS
        sound = None if self._samples is None else Sound(samples=self._samples, rate=self._rate)
        return Recording(sound=sound, is_whole=self._is_whole, goes_on=goes_on)

    def _frames(self) -> Iterator[AudioFrame]:
        """Decoded, from a little before the span on; what is damaged is left out."""
        if self._stream.codec_context is None:
            self._is_whole = False
            return
        try:
            if self._origin > SEEK_MARGIN_SECONDS:
                offset = math.floor((self._origin - SEEK_MARGIN_SECONDS) / self._stream.time_base)
                self._container.seek(offset, stream=self._stream)
            for packet in self._container.demux(self._stream):
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    self._is_whole = False
                    continue
                yield from frames
        except av.FFmpegError:
            self._is_whole = False

    def _take(self, frame: AudioFrame, at: float) -> None:
        """Put the samples of a frame where they belong."""
        if self._samples is None:
            channels = frame.layout.nb_channels
            self._layout = LAYOUTS.get(channels, "stereo")
            self._rate = frame.sample_rate
            channels = channels if channels in LAYOUTS else 2
            self._samples = torch.zeros(channels, round(self._seconds * self._rate))
            self._next = round(at * self._rate)
        if abs(at - self._next / self._rate) > CLOCK_SECONDS:
            self._next = round(at * self._rate)
        for part in self._converted(frame):
            values = torch.from_numpy(part.to_ndarray()).nan_to_num(0.0, 0.0, 0.0)
            first, last = max(0, self._next), min(self._samples.shape[1], self._next + values.shape[1])
            if first < last:
                self._samples[:, first:last] = values[:, first - self._next : last - self._next]
            self._next += values.shape[1]

    def _converted(self, frame: AudioFrame) -> list[AudioFrame]:
        """Convert to the form of the first frame; a stream may change its own on the way."""
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self._kind:
            self._kind = kind
            self._resampler = AudioResampler(format="fltp", layout=self._layout, rate=self._rate)
        # Times are told from the packets: the resampler's own count would be lost where it is exchanged.
        frame.pts = None
        return self._resampler.resample(frame)
