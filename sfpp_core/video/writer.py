"""MP4 files, written frame by frame while the video is still being made.

Pictures are turned into the planes that H.264 stores (BT.601 matrix, limited range, 4:2:0) here and not by the codec
library, whose rounding differs between its versions: the same frames give the same bytes. BT.601 and not BT.709,
because everything reads it right: players that heed a file's tags, players that go by the size of the picture, and PyAV
before 17, which takes every file for BT.601 and in ComfyUI shifts the colours of others.

Axes: T frames, H height, W width, C colours (RGB).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from fractions import Fraction
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import Final

import av
import torch
from av.container import OutputContainer
from av.stream import Stream
from av.video.stream import VideoStream
from einops import rearrange, reduce
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..files import growing, replacing
from ..wan.config import FRAMES_PER_SECOND
from .codecs import DEFAULT_CRF, H264, MAX_CRF, Sound, SoundTrack, VideoCodec
from .reader import VideoReader

logger = logging.getLogger(__name__)

# The page that restores a workflow from a file reads its tags, which MP4 loses without use_metadata_tags, and only the
# first 64 MiB of it, which faststart makes sure they are in.
WHOLE: Final = {"movflags": "use_metadata_tags+faststart"}

# Pieces of a second, each with an index of its own and on the disk at once. The first index waits for the first piece:
# only then is it known how much players shall skip of what encoders put in front.
GROWING: Final = {"movflags": "use_metadata_tags+delay_moov", "frag_duration": "1000000", "flush_packets": "1"}


def open_growing(path: str | os.PathLike[str], *, fps: Fraction, metadata: Mapping[str, str]) -> OutputContainer:
    """A container for streams and packets, of which players show at any time all but the newest seconds.

    Raises:
        OSError: the file cannot be written.
    """
    return _open(path, GROWING, fps, metadata)


def make_whole(
    source: str | os.PathLike[str], target: str | os.PathLike[str], *, fps: Fraction, metadata: Mapping[str, str]
) -> None:
    """Copy the streams of `source` into an MP4 that begins with the index of all of it. Nothing is encoded again.

    Raises:
        OSError: the file cannot be written.
    """
    with ExitStack() as files:
        given = files.enter_context(av.open(os.fspath(source)))
        # Left to itself, PyAV before 15 counts time in units that few frame rates are whole numbers of.
        form = {**WHOLE, "video_track_timescale": str(given.streams.video[0].time_base.denominator)}
        whole = files.enter_context(_open(target, form, fps, metadata))
        streams = {stream.index: _twin(stream, whole) for stream in given.streams}
        for packet in given.demux():
            if packet.dts is not None:  # the empty packet at the end of each stream
                packet.stream = streams[packet.stream.index]
                whole.mux(packet)


def _twin(stream: Stream, container: OutputContainer) -> Stream:
    """A stream of `container` that takes the packets of `stream`."""
    # Opaque: PyAV before 15 otherwise sets up an encoder, and what it then writes is empty.
    twin = container.add_stream_from_template(stream, opaque=True)
    twin.codec_context.codec_tag = stream.codec_context.codec_tag
    return twin


def _open(
    path: str | os.PathLike[str], form: Mapping[str, str], fps: Fraction, metadata: Mapping[str, str]
) -> OutputContainer:
    # In ticks of 1/1000 second, the default, most lengths would not be whole numbers.
    options = {**form, "movie_timescale": str(fps.numerator)}
    container = av.open(os.fspath(path), "w", format="mp4", options=options)
    container.metadata.update(metadata)
    return container


NTSC = Fraction(1000, 1001)
_SAME = 0.005


def exact_rate(fps: float) -> Fraction:
    """The rate that a decimal number means: 23.976 and 29.97 are 24000/1001 and 30000/1001."""
    whole = round(fps)
    if fps != whole and abs(fps - whole * NTSC) < _SAME:
        return whole * NTSC
    return Fraction(fps).limit_denominator(1000)


def times_shown(index: int, *, made: Fraction, shown: Fraction) -> int:
    """Return how many frames of a video with `shown` frames a second show the frame `index` of one that has `made`.

    A frame is on the screen from its time until the next one's, as in the video it was made for, and nothing is
    invented between two: so the video keeps its length, but for less than a frame, at which the last ends later. Going
    from 16 to 24, every second frame comes twice; from 16 to 8, every second is left out.
    """
    ratio = shown / made
    return ceil((index + 1) * ratio) - ceil(index * ratio)


LUMA: Final = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in luma: ITU-R BT.601-7, 2.5.1."""
# The chroma axes follow from them; white has to be 1 to the last bit.
_RED, _, _BLUE = LUMA
_GREEN = 1.0 - _RED - _BLUE
_RGB_TO_YUV = (
    (_RED, _GREEN, _BLUE),
    (-_RED / (2 - 2 * _BLUE), -_GREEN / (2 - 2 * _BLUE), 0.5),
    (0.5, -_GREEN / (2 - 2 * _RED), -_BLUE / (2 - 2 * _RED)),
)
# Limited range with 8 bits (BT.601-7, 2.5.3): black and white are 16 and 235, colourless is 128.
_LUMA_OFFSET, _LUMA_SPAN = 16.0, 219.0
_CHROMA_OFFSET, _CHROMA_SPAN = 128.0, 224.0


def rgb_to_yuv420(frame: Tensor) -> Tensor:
    """A frame H W 3, float in [0, 1], H and W even, to its planes below each other: uint8 (3/2 H) W.

    The H rows of luma are followed by H/4 rows that hold the H/2 x W/2 values of U, and as many of V.
    """
    height, width, _ = frame.shape
    yuv = frame @ torch.tensor(_RGB_TO_YUV, dtype=frame.dtype, device=frame.device).T
    luma = _LUMA_OFFSET + _LUMA_SPAN * yuv[..., 0]
    chroma = reduce(yuv[..., 1:], "(h two_h) (w two_w) c -> c h w", "mean", two_h=2, two_w=2)
    chroma = rearrange(_CHROMA_OFFSET + _CHROMA_SPAN * chroma, "c h w -> (c h w)").view(height // 2, width)
    return torch.cat((luma, chroma)).round().to(torch.uint8)


class VideoWriter:
    """A context manager that takes frames and leaves an MP4 (yuv420p) behind, or nothing at all.

    The video grows in the same folder as unfinished.NAME..., which players show as far as it is. When the `with` block
    ends well, a copy with one index in front takes the video's own name, replacing any file of that name, and the
    unfinished one goes, as it does on an error or an interrupt inside the block. So for a moment a video takes twice
    its size on disk; where there is no room for that, the video stays as it has grown. Memory does not grow with the
    length but for the file's own index, some hundred bytes a frame. Equal frames give equal bytes; with sound, on
    processors of the same kind.

    Args:
        path: the MP4 to be; its folder must exist.
        width, height: size of the frames in pixels, both even; for H.265 at least 16.
        fps: frames per second of the file, above 0; a Fraction keeps rates such as 24000/1001 exact.
        made_fps: frames per second of the frames that are given, if others: then some are shown repeatedly, or left
            out, and the video keeps its length. See `times_shown`.
        codec: H.264, which everything plays, or H.265, which is smaller and takes longer.
        crf: quality from 0 (lossless, which browsers may not play) to 51 (worst).
        sound: heard from the first frame on; what is longer than the video is cut, after a shorter one comes silence.
        metadata: tags for the container, for instance ComfyUI's `workflow` and `prompt` as JSON text.

    Raises:
        ValueError: an argument, or a frame, is not as described, PyAV lacks the codec, or the block ends well without
            any frame.
        OSError: the file cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        width: int,
        height: int,
        *,
        fps: Fraction | int = FRAMES_PER_SECOND,
        made_fps: Fraction | int | None = None,
        codec: VideoCodec = H264,
        crf: int = DEFAULT_CRF,
        sound: Sound | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        made_fps = fps if made_fps is None else made_fps
        _check(codec, width, height, fps=fps, made_fps=made_fps, crf=crf)
        self.path = Path(path)
        self.num_frames = 0
        """Frames in the file so far."""
        self._num_given = 0
        self._size = (height, width)
        self._fps = Fraction(fps)
        self._made_fps = Fraction(made_fps)
        self._codec = codec
        self._crf = crf
        self._sound = sound
        self._metadata = dict(metadata or {})
        self._resources = ExitStack()
        self._growing: Path | None = None
        self._container: OutputContainer | None = None
        self._pictures: VideoStream | None = None
        self._track: SoundTrack | None = None
        self._is_open = False

    def __enter__(self) -> VideoWriter:
        if self._container is not None:
            raise RuntimeError(f"this writer of {self.path} was used before; every file needs a writer of its own")
        with ExitStack() as resources:
            self._growing = resources.enter_context(growing(self.path))
            self._container = open_growing(self._growing, fps=self._fps, metadata=self._metadata)
            resources.callback(self._close_quietly)
            self._pictures = self._codec.add_stream(self._container, self._size, self._fps, self._crf)
            if self._sound is not None:
                self._track = SoundTrack(self._container, self._sound)
            self._container.start_encoding()  # opens the file: what stands in the way shows before any frame is made
            self._resources = resources.pop_all()
        self._is_open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        if kind is not None:
            self._resources.__exit__(kind, error, trace)
            return
        with self._resources:
            self._finish()

    def write(self, frames: Tensor) -> None:
        """Append frames T H W C: floating point in [0, 1], values beyond which are clamped, or uint8. T may be 0."""
        if not self._is_open:
            raise RuntimeError(f"{self.path} is not open; write inside the writer's `with` block")
        if frames.ndim != 4 or tuple(frames.shape[1:]) != (*self._size, 3):
            expected = f"(number, {self._size[0]}, {self._size[1]}, 3): number, height, width, RGB"
            raise ValueError(f"the frames are {tuple(frames.shape)}; this video takes {expected}")
        for frame in frames:
            planes = rgb_to_yuv420(self._to_unit_range(frame))
            for _ in range(times_shown(self._num_given, made=self._made_fps, shown=self._fps)):
                self._encode(planes)
            self._num_given += 1

    def _to_unit_range(self, frame: Tensor) -> Tensor:
        if frame.dtype == torch.uint8:
            return frame.cpu().float() / 255
        if not frame.is_floating_point():
            raise ValueError(f"the frames are {frame.dtype}; a video takes floating point in [0, 1] or uint8")
        frame = frame.detach().float().cpu()
        if frame.isnan().any():
            raise ValueError(
                f"frame {self._num_given} holds non-finite values (NaN); what made it overflowed. "
                "Run the VAE in float32 or bfloat16."
            )
        return frame.clamp(0.0, 1.0)

    def _encode(self, planes: Tensor) -> None:
        picture = av.VideoFrame.from_ndarray(planes.numpy(), format="yuv420p")
        picture.pts = self.num_frames
        picture.time_base = 1 / self._fps
        self._container.mux(self._pictures.encode(picture))
        self.num_frames += 1
        if self._track is not None:
            self._container.mux(self._track.until(self.num_frames / self._fps))

    def _finish(self) -> None:
        if self.num_frames == 0:
            raise ValueError(f"no frames were given for {self.path.name}; a video needs at least one")
        self._container.mux(self._pictures.encode(None))
        if self._track is not None:
            self._container.mux(self._track.rest())
        self._container.close()
        try:
            with replacing(self.path) as whole:
                make_whole(self._growing, whole, fps=self._fps, metadata=self._metadata)
        except OSError as problem:
            # What has grown is all of the video. Only its index is in pieces.
            os.replace(self._growing, self.path)
            logger.warning(
                "%s is whole and plays, but its index could not be put in front (%s): dropped on ComfyUI's page it may "
                "not bring its workflow back.",
                self.path,
                problem.strerror or problem,
            )

    def _close_quietly(self) -> None:
        """An error while closing a file that is thrown away must not hide the one that led here."""
        with suppress(av.FFmpegError, OSError):
            self._container.close()


def _check(
    codec: VideoCodec, width: int, height: int, *, fps: Fraction | int, made_fps: Fraction | int, crf: int
) -> None:
    for name, size in (("width", width), ("height", height)):
        if size < codec.min_px or size % 2:
            raise ValueError(
                f"{name} is {size}; {codec.name} in MP4 needs an even number, {codec.min_px} or more. "
                f"Try {max(codec.min_px, size + size % 2)}."
            )
    for name, rate in (("fps", fps), ("made_fps", made_fps)):
        if rate <= 0:
            raise ValueError(f"{name} is {rate}; it must be above 0.")
    if not 0 <= crf <= MAX_CRF:
        raise ValueError(f"crf is {crf}; it goes from 0 (best) to {MAX_CRF} (worst). Try {DEFAULT_CRF}.")


MAX_SIDE_PX: Final = 512


def save_thumbnail(video: Path, *, metadata: Mapping[str, str]) -> Path:
    """Write the first picture of a video beside it, as a PNG of the same name whose longer side is at most 512 pixels.

    Beside it and not into it, because FFmpeg drops a cover from an MP4 that carries a workflow.

    metadata: text chunks for the PNG, for instance those from which ComfyUI's page restores a workflow.

    Raises:
        VideoFileError: the video cannot be read.
        OSError: the file cannot be written.
    """
    with VideoReader(video) as reader:
        _, first = next(reader.pictures())
    picture = Image.fromarray(first)
    picture.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.LANCZOS)
    texts = PngInfo()
    for name, value in metadata.items():
        texts.add_text(name, value)
    path = video.with_suffix(".png")
    with replacing(path) as unfinished:
        picture.save(unfinished, pnginfo=texts)
    return path
