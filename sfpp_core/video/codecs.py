"""The codecs that a video may be written in, set so that equal frames give equal bytes, and its sound.

The same frames give the same file on every machine, so nothing about an encoder may depend on the processor: not the
number of its cores, nor the choice of an encoder's routines.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import av
import torch
import torch.nn.functional as F
from av import AudioFrame, Packet
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream
from torch import Tensor

DEFAULT_CRF: Final = 18
MAX_CRF: Final = 51

# How colours are to be read, in the codes of ITU-T H.273: primaries and transfer of BT.709, which are nearest to sRGB,
# the matrix of BT.601, limited range. See color.py.
PRIMARIES_AND_TRANSFER: Final = 1
MATRIX: Final = 6
LIMITED_RANGE: Final = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoCodec:
    """An encoder and what to tell it. Both kinds take pictures in yuv420p, of even width and height."""

    name: str
    """As people call it."""
    encoder: str
    """As FFmpeg calls it."""
    tag: str
    """The four letters by which an MP4 names what is in it."""
    min_px: int
    """The smallest side of a picture that it takes."""
    threads: int
    parameters: str
    """For the encoder itself, in its own syntax."""
    lossless_parameters: str = ""
    """Added for a crf of 0, which shall lose nothing."""

    def add_stream(self, container: OutputContainer, size: tuple[int, int], fps: Fraction, crf: int) -> VideoStream:
        """A stream for pictures of `size`, height and width, in ticks of one frame.

        Raises:
            ValueError: this build of FFmpeg's libraries lacks the encoder.
        """
        parameters = self.parameters if crf > 0 else self.parameters + self.lossless_parameters
        options = {"crf": str(crf), f"{self.encoder.removeprefix('lib')}-params": parameters}
        try:
            stream = container.add_stream(self.encoder, rate=fps, options=options)
        except av.codec.codec.UnknownCodecError as error:
            raise ValueError(
                f"the installed PyAV cannot write {self.name}: its FFmpeg has no {self.encoder}. Choose another codec, "
                "or install the build of PyAV that is on PyPI (pip install --force-reinstall av)."
            ) from error
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.time_base = 1 / fps
        context = stream.codec_context
        context.codec_tag = self.tag
        context.thread_count = self.threads
        context.color_primaries = context.color_trc = PRIMARIES_AND_TRANSFER
        context.colorspace = MATRIX
        context.color_range = LIMITED_RANGE
        return stream


H264: Final = VideoCodec(
    name="H.264",
    encoder="libx264",
    tag="avc1",
    min_px=2,
    threads=4,
    # Some routines even read memory that was never written when the picture is small (seen with AVX-512 and pictures 64
    # pixels wide: two runs, two files).
    parameters="cpu-independent=1",
)

H265: Final = VideoCodec(
    name="H.265",
    encoder="libx265",
    tag="hvc1",  # With hev1, x265's own, Apple's players show nothing.
    min_px=16,
    threads=2,
    # Rows are encoded in parallel by up to 4 threads, fewer where there are fewer cores, to the same bytes; left to
    # itself, x265 makes other bytes with none, and may search motion otherwise with 12. `info` writes the build and all
    # settings into the video.
    parameters="pools=4:frame-threads=2:wpp=1:lookahead-slices=0:info=0:log-level=error",
    lossless_parameters=":lossless=1",
)

CODECS: Final = {codec.name: codec for codec in (H264, H265)}
"""By name, the most widely played first."""


LAYOUTS: Final = {1: "mono", 2: "stereo", 6: "5.1"}
"""What a number of channels is taken for."""

# What AAC has a code for; of the rest, players disagree on what a file means.
AAC_RATES: Final = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
OTHERWISE: Final = 48000
BITS_PER_CHANNEL: Final = 96_000
"""Per second; with two channels beyond what most listeners can tell from the original."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sound:
    """A recording: samples C N, floating point with full scale at -1 and 1; C is 1, 2 or 6 (5.1) channels."""

    samples: Tensor
    rate: int
    """Samples a second of each channel."""

    def __post_init__(self) -> None:
        if self.samples.ndim != 2 or not self.samples.is_floating_point():
            kind = f"{tuple(self.samples.shape)}, {self.samples.dtype}"
            raise ValueError(f"the sound's samples are {kind}; expected (channels, samples) in floating point")
        if self.samples.shape[0] not in LAYOUTS:
            raise ValueError(f"the sound has {self.samples.shape[0]} channels; give it as mono, stereo or 5.1.")
        if self.rate < 1:
            raise ValueError(f"the sound's rate is {self.rate} samples a second; it must be at least 1.")
        if not self.samples.isfinite().all():
            raise ValueError("the sound holds non-finite values (NaN or infinite); what made it overflowed.")


class SoundTrack:
    """A sound on its way into a container as AAC, always as far as the pictures are: neither has to wait in memory."""

    def __init__(self, container: OutputContainer, sound: Sound) -> None:
        self._sound = sound
        channels = sound.samples.shape[0]
        rate = sound.rate if sound.rate in AAC_RATES else OTHERWISE
        self._stream: AudioStream = container.add_stream("aac", rate=rate, layout=LAYOUTS[channels])
        self._stream.codec_context.bit_rate = BITS_PER_CHANNEL * channels
        self._done = 0

    def until(self, seconds: Fraction) -> list[Packet]:
        """Return what is ready of the sound up to this time; silence where it has ended."""
        start, end = self._done, round(seconds * self._sound.rate)
        if end <= start:
            return []
        given = self._sound.samples[:, start:end].detach().to("cpu", torch.float32)
        samples = F.pad(given, (0, end - start - given.shape[1])).contiguous()
        frame = AudioFrame.from_ndarray(samples.numpy(), format="fltp", layout=LAYOUTS[samples.shape[0]])
        frame.sample_rate = self._sound.rate
        frame.pts, frame.time_base = start, Fraction(1, self._sound.rate)
        self._done = end
        return self._stream.encode(frame)

    def rest(self) -> list[Packet]:
        """Return what was not ready yet; the track ends here."""
        return self._stream.encode(None)
