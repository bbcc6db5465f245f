"""H.264 MP4 files, written frame by frame while the video is still being made.

Axes: T frames, H height, W width, C colours (RGB).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Final

import av
import torch
from av.container import OutputContainer
from av.video.stream import VideoStream
from torch import Tensor

from ..files import replacing
from ..wan.geometry import FRAMES_PER_SECOND
from .color import rgb_to_yuv420

DEFAULT_CRF: Final = 18
MAX_CRF: Final = 51

# The same frames shall give the same file on every machine, so nothing about the encoder may depend on the processor:
# not the number of threads, nor the choice of its routines. Some of those even read memory that was never written when
# the picture is small (seen with AVX-512 and pictures 64 pixels wide: two runs, two files).
ENCODER_THREADS: Final = 4
X264_PARAMS: Final = "cpu-independent=1"

# The page that restores a workflow from a file reads its tags, which MP4 loses without use_metadata_tags, and only the
# first 64 MiB of it, which faststart makes sure they are in.
MOVFLAGS: Final = "use_metadata_tags+faststart"

# How colours are to be read, in the codes of ITU-T H.273: primaries and transfer of BT.709, which are nearest to sRGB,
# the matrix of BT.601, limited range. See color.py.
PRIMARIES_AND_TRANSFER: Final = 1
MATRIX: Final = 6
LIMITED_RANGE: Final = 1


class VideoWriter:
    """A context manager that takes frames and leaves an MP4 (H.264, yuv420p) behind, or nothing at all.

    The file grows under a temporary name in the same folder. It takes its own name, replacing any file of that name,
    when the `with` block ends well; on an error or an interrupt inside the block it is removed. Memory does not grow
    with the length but for the file's own index, some hundred bytes a frame. Equal frames give equal bytes.

    Args:
        path: the MP4 to be; its folder must exist.
        width, height: size of the frames in pixels, both even.
        fps: frames per second, above 0; a Fraction keeps rates such as 24000/1001 exact.
        crf: quality of x264 from 0 (lossless, which browsers may not play) to 51 (worst).
        metadata: tags for the container, for instance ComfyUI's `workflow` and `prompt` as JSON text.

    Raises:
        ValueError: an argument, or a frame, is not as described, or the block ends well without any frame.
        OSError: the file cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        width: int,
        height: int,
        *,
        fps: Fraction | int = FRAMES_PER_SECOND,
        crf: int = DEFAULT_CRF,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        for name, size in (("width", width), ("height", height)):
            if size < 2 or size % 2:
                raise ValueError(f"{name} is {size}; H.264 in MP4 needs an even number. Try {max(2, size + size % 2)}.")
        if fps <= 0:
            raise ValueError(f"fps is {fps}; it must be above 0.")
        if not 0 <= crf <= MAX_CRF:
            raise ValueError(f"crf is {crf}; it goes from 0 (best) to {MAX_CRF} (worst). Try {DEFAULT_CRF}.")
        self.path = Path(path)
        self.num_frames = 0
        """Frames written so far."""
        self._size = (height, width)
        self._fps = Fraction(fps)
        self._crf = crf
        self._metadata = dict(metadata or {})
        self._resources = ExitStack()
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._is_open = False

    def __enter__(self) -> VideoWriter:
        if self._container is not None:
            raise RuntimeError(f"this writer of {self.path} was used before; every file needs a writer of its own")
        with ExitStack() as resources:
            unfinished = resources.enter_context(replacing(self.path))
            # In ticks of 1/1000 second, the default, most lengths would not be whole numbers.
            options = {"movflags": MOVFLAGS, "movie_timescale": str(self._fps.numerator)}
            self._container = av.open(str(unfinished), "w", format="mp4", options=options)
            resources.callback(self._close_quietly)
            self._container.metadata.update(self._metadata)
            self._stream = self._add_stream(self._container)
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
            self._encode(self._to_unit_range(frame))

    def _to_unit_range(self, frame: Tensor) -> Tensor:
        if frame.dtype == torch.uint8:
            return frame.cpu().float() / 255
        if not frame.is_floating_point():
            raise ValueError(f"the frames are {frame.dtype}; a video takes floating point in [0, 1] or uint8")
        frame = frame.detach().float().cpu()
        if frame.isnan().any():
            raise ValueError(
                f"frame {self.num_frames} holds values that are no numbers (NaN); what made it overflowed. "
                "Run the VAE in float32 or bfloat16."
            )
        return frame.clamp(0.0, 1.0)

    def _encode(self, frame: Tensor) -> None:
        picture = av.VideoFrame.from_ndarray(rgb_to_yuv420(frame).numpy(), format="yuv420p")
        picture.pts = self.num_frames
        picture.time_base = 1 / self._fps
        self._container.mux(self._stream.encode(picture))
        self.num_frames += 1

    def _add_stream(self, container: OutputContainer) -> VideoStream:
        options = {"crf": str(self._crf), "x264-params": X264_PARAMS}
        stream = container.add_stream("libx264", rate=self._fps, options=options)
        stream.height, stream.width = self._size
        stream.pix_fmt = "yuv420p"
        stream.time_base = 1 / self._fps
        context = stream.codec_context
        context.thread_count = ENCODER_THREADS
        context.color_primaries = context.color_trc = PRIMARIES_AND_TRANSFER
        context.colorspace = MATRIX
        context.color_range = LIMITED_RANGE
        return stream

    def _finish(self) -> None:
        if self.num_frames == 0:
            raise ValueError(f"no frames were given for {self.path.name}; a video needs at least one")
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def _close_quietly(self) -> None:
        """An error while closing a file that is thrown away must not hide the one that led here."""
        with suppress(av.FFmpegError, OSError):
            self._container.close()
