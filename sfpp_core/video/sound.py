"""The sound of a film, compressed along with its pictures."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import torch
import torch.nn.functional as F
from av import AudioFrame, Packet
from av.audio.stream import AudioStream
from av.container import OutputContainer
from torch import Tensor

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
            raise ValueError("the sound holds values that are no numbers (NaN or infinite); what made it overflowed.")


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
        """What is ready of the sound up to this time; silence where it has ended."""
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
        """What was not ready yet; the track ends here."""
        return self._stream.encode(None)
