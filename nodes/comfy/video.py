"""ComfyUI's VIDEO and IMAGE as footage that the core reads."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypedDict

import av
import folder_paths
import numpy as np
import torch
from comfy_api.latest import InputImpl
from PIL import Image, ImageOps
from torch import Tensor

from ...sfpp_core.video.codecs import Sound
from ...sfpp_core.video.reader import shown_at
from ...sfpp_core.video.recording import NOTICED_SECONDS, Recording, has_sound, read_recording
from ...sfpp_core.video.span import VideoSpan
from ...sfpp_core.wan.config import FRAMES_PER_SECOND, WAN21
from .progress import interrupt_if_asked
from .report import Report
from .vae import Video


@contextmanager
def footage_of(video: Any, fps: float) -> Iterator[VideoSpan]:
    """A VIDEO, or an IMAGE batch shown at `fps`, as footage that can be read until the block ends.

    A video in a file is read from there piece by piece, and nothing of it is kept in memory. One that a node holds as
    pictures is read as these: ComfyUI's own way to stream it would compress them first.

    Raises:
        PermissionError: the file lies outside ComfyUI's folders.
        VideoFileError: the file is no video, has no pictures in it, is damaged or cut short.
        ValueError: the pictures are of another shape, or there are none.
    """
    if isinstance(video, Tensor):
        yield VideoSpan.from_images(video, fps)
        return
    if isinstance(video, InputImpl.VideoFromComponents):
        parts = video.get_components()
        yield VideoSpan.from_images(parts.images, float(parts.frame_rate))
        return
    with file_of(video) as path:
        yield _as_trimmed(VideoSpan.open(path), video)


@contextmanager
def file_of(video: Any) -> Iterator[Path]:
    """Yield the file behind a VIDEO.

    A VIDEO in memory only, as nodes of online services give it, becomes a file meanwhile.
    """
    source = video.get_stream_source()
    if not isinstance(source, BytesIO):
        yield _permitted(source)
        return
    ending = "mp4" if "mp4" in (kinds := video.get_container_format().split(",")) else kinds[0]
    temporary = Path(folder_paths.get_temp_directory())
    temporary.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=temporary) as folder:
        path = Path(folder, f"video.{ending}")
        path.write_bytes(source.getbuffer())
        yield path


def _permitted(path: str) -> Path:
    """The path of a file in ComfyUI's input, output or temp folder.

    Load Video opens any path that a workflow names, and workflows come from strangers: without this, one could have any
    video of this machine sent to a judge that is far away.

    Raises:
        PermissionError: it lies elsewhere.
    """
    roots = (folder_paths.get_input_directory(), folder_paths.get_output_directory(), folder_paths.get_temp_directory())
    # Whoever puts a link into these folders may; and where such a folder is one, its files have two names.
    absolute = Path(os.path.abspath(path))
    is_below = any(
        Path(named(path)).is_relative_to(named(root)) for root in roots for named in (os.path.abspath, os.path.realpath)
    )
    if not is_below:
        raise PermissionError(
            f"video is {absolute.name}, which is not in ComfyUI's input, output or temp folder. Copy it into the input "
            "folder and choose it there."
        )
    return absolute


def trim_of(video: Any) -> tuple[float, float]:
    """Start and length, in seconds, of the part of its file that a VIDEO stands for; 0 long is up to the end.

    From 0.26 on, Trim Video cuts nothing: it only notes the span.
    """
    window = getattr(video, "get_active_trim_window", None)
    return window() if window is not None else (0.0, 0.0)


def _as_trimmed(footage: VideoSpan, video: Any) -> VideoSpan:
    start, seconds = trim_of(video)
    if not (start or seconds):
        return footage
    part = footage.segment(start, start + seconds if seconds else footage.end)
    source = TrimmedSource(part)
    return VideoSpan(source=source, start=0.0, end=source.duration)


class TrimmedSource:
    """A span of footage in the role of a whole video: what was cut off is nothing that it should be compared with."""

    def __init__(self, span: VideoSpan) -> None:
        self._span = span
        self.name = span.name
        self.path: Path | None = None
        self.size = span.size
        self.duration = span.duration
        self.num_frames = max(1, round(span.source.num_frames * span.duration / span.source.duration))

    def pictures(self, start: float, end: float, min_gap: float) -> Iterator[tuple[float, np.ndarray]]:
        """See the core's Source."""
        origin = self._span.start
        for time, picture in self._span.source.pictures(origin + start, origin + end, min_gap):
            yield time - origin, picture

    def digest(self) -> str:
        """See the core's Source."""
        return self._span.fingerprint()


TOLERANCE = 1e-3
"""Of a frame, in a video's duration."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ContinuedVideo:
    """A VIDEO at the video's rate and size."""

    video: Any
    width: int
    """In pixels, of the video."""
    height: int
    num_frames: int
    """At the video's rate."""
    num_given: int
    """Of these, the last ones that the video begins with: one more than a multiple of 4."""

    @classmethod
    def of(cls, video: Any, *, seconds: float, width: int, height: int) -> ContinuedVideo:
        """The clip, of whose end about `seconds` are given to the video. A side of 0 takes the video's own.

        Raises ValueError for a size that no video has, and as `footage_of`.
        """
        with footage_of(video, FRAMES_PER_SECOND) as footage:
            own_height, own_width = (side // WAN21.size_multiple * WAN21.size_multiple for side in footage.size)
            num_frames = max(1, math.floor(footage.duration * FRAMES_PER_SECOND + TOLERANCE))
        wanted = min(num_frames, max(1, round(seconds * FRAMES_PER_SECOND)))
        latent_height, latent_width = WAN21.latent_size(height or own_height, width or own_width)
        return cls(
            video=video,
            width=latent_width * WAN21.spatial_stride,
            height=latent_height * WAN21.spatial_stride,
            num_frames=num_frames,
            num_given=(wanted - 1) // WAN21.temporal_stride * WAN21.temporal_stride + 1,
        )

    def given(self) -> Iterator[np.ndarray]:
        """The pictures that the video begins with, uint8 H W C."""
        return self._pictures(self.num_frames - self.num_given, self.num_given)

    def all(self) -> Iterator[np.ndarray]:
        """Yield all frames, uint8 [H, W, C]."""
        return self._pictures(0, self.num_frames)

    def _pictures(self, first: int, count: int) -> Iterator[np.ndarray]:
        with footage_of(self.video, FRAMES_PER_SECOND) as footage:
            start = first / FRAMES_PER_SECOND
            for picture in shown_at(_from(footage, start), start, FRAMES_PER_SECOND, count):
                yield self._fitted(picture)

    def _fitted(self, picture: np.ndarray) -> np.ndarray:
        """Scaled to cover the video's size, and cut to it evenly on both sides."""
        if picture.shape[:2] == (self.height, self.width):
            return picture
        image = Image.fromarray(picture)
        return np.asarray(ImageOps.fit(image, (self.width, self.height), Image.Resampling.LANCZOS))


@contextmanager
def behind(clip: ContinuedVideo, video: AbstractContextManager[Video]) -> Iterator[Video]:
    """A video that shows the clip's own pictures first; of what it is given, those that the clip has are left out.

    Raises ComfyUI's interrupt.
    """
    with video as opened:
        for picture in clip.all():
            interrupt_if_asked()
            opened.write(torch.from_numpy(picture.copy())[None])
        yield _Rest(opened, clip.num_given)


class _Rest:
    """A video without the first pictures that it is given."""

    def __init__(self, video: Video, num_known: int) -> None:
        self._video = video
        self._num_known = num_known

    def write(self, frames: Tensor) -> None:
        """See Video."""
        known = min(self._num_known, len(frames))
        self._num_known -= known
        self._video.write(frames[known:])


def _from(footage: VideoSpan, start: float) -> Iterator[tuple[float, np.ndarray]]:
    """Pictures from the one in view at `start` on: of a video of few pictures a second that is one from before."""
    before = max(0.0, start - 1.0)
    return footage.segment(before, footage.end).frames(max_rate=1000.0)


class Audio(TypedDict):
    """The dictionary that travels between nodes as AUDIO: waveform [B, channels, samples]."""

    waveform: Tensor
    sample_rate: int


def video_sound(audio: Audio | None, before: ContinuedVideo | None, seconds: float, report: Report) -> Sound | None:
    """Return the sound of a video of so many seconds: the AUDIO, or else the source's own while the source is seen.

    The report says what of them is not heard. Raises ValueError as `sound_of`.
    """
    if audio is None:
        return None if before is None else _sound_of_clip(before, report)
    sound = sound_of(audio)
    if (heard := sound.samples.shape[-1] / sound.rate) > seconds + NOTICED_SECONDS:
        report.add(f"audio lasts {heard:.2f} s and the video {seconds:.2f} s: what is longer of audio is cut off.")
    if before is not None and _is_heard(before.video):
        report.add(
            "The source video in before has sound of its own, which is dropped because audio is wired. Take audio off "
            "to keep it, or mix the two before."
        )
    return sound


def sound_of(audio: Audio) -> Sound:
    """The recording in an AUDIO. Raises ValueError if there are several or it cannot be read, or as Sound does."""
    try:
        # Some loaders read the sound here only, and fail on a clip that has none.
        waveform, rate = audio["waveform"], int(audio["sample_rate"])
    except Exception as error:
        raise ValueError(
            f"audio cannot be read ({' '.join(str(error).split())[:200] or type(error).__name__}); the clip that it is "
            "of may have no sound. Take audio off."
        ) from error
    if waveform.ndim != 3 or waveform.shape[0] != 1:
        raise ValueError(
            f"audio has shape {tuple(waveform.shape)}; a video takes one recording, [1, channels, samples]. Choose one."
        )
    try:
        return Sound(samples=waveform[0], rate=rate)
    except ValueError as error:
        raise ValueError(f"audio cannot be used: {error}") from error


def _sound_of_clip(clip: ContinuedVideo, report: Report) -> Sound | None:
    """Return sound as long as the pictures; None if there is none that can be used, which stops no video."""
    try:
        recording = _recording_of(clip)
    except ValueError as error:
        report.add(f"The sound of the source video in before is left out: {error}")
        return None
    if recording is None:
        return None
    if not recording.is_whole:
        report.add(
            "The sound of the source video in before could not be decoded, and the video has none. Wire audio for "
            "another one."
            if recording.sound is None
            else "Parts of the sound of the source video in before could not be decoded; there the video is silent."
        )
    if recording.goes_on:
        report.add("The sound of the source video in before is longer than its pictures; what is longer is cut off.")
    return recording.sound


def _recording_of(clip: ContinuedVideo) -> Recording | None:
    """Raises ValueError with a text that says why a sound cannot be used."""
    seconds = clip.num_frames / FRAMES_PER_SECOND
    if isinstance(clip.video, InputImpl.VideoFromComponents):
        audio = clip.video.get_components().audio
        if audio is None:
            return None
        whole = sound_of(audio)
        sound = Sound(samples=whole.samples[:, : round(seconds * whole.rate)], rate=whole.rate)
        goes_on = whole.samples.shape[1] / whole.rate > seconds + NOTICED_SECONDS
        return Recording(sound=sound, is_whole=True, goes_on=goes_on)
    start, length = trim_of(clip.video)
    with file_of(clip.video) as path:
        recording = read_recording(path, start, seconds)
    if recording is None or not length:
        return recording
    # What lies behind the span of a trimmed clip was cut off by the artist.
    return Recording(sound=recording.sound, is_whole=recording.is_whole, goes_on=False)


def _is_heard(video: Any) -> bool:
    """Return whether a VIDEO has sound."""
    if isinstance(video, InputImpl.VideoFromComponents):
        return video.get_components().audio is not None
    with suppress(av.FFmpegError), file_of(video) as path:
        return has_sound(path)
    return False
