"""Video files with sound for tests, and how loud a sound is."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from torch import Tensor

FPS, SIDE = 16, 64
LOUD = 0.5
"""Strength of the beeps."""
HEARD = LOUD / math.sqrt(2)
"""Root mean square of a beep."""


def beeps(seconds: float, rate: int, channels: int) -> np.ndarray:
    """A tone in the first half of every second, in each channel half as loud as in the one before; C N."""
    time = np.arange(round(seconds * rate)) / rate
    wave = LOUD * np.sin(2 * math.pi * 440 * time) * (time % 1 < 0.5)
    return np.stack([wave / 2**channel for channel in range(channels)]).astype(np.float32)


def video(
    path: Path,
    *,
    seconds: float = 2.0,
    sound_seconds: float = 2.0,
    codec: str = "aac",
    rate: int = 48000,
    layouts: tuple[str, ...] = ("stereo",),
    late: float = 0.0,
) -> Path:
    """A video with a sound track for each layout, every next one half as loud, which begins `late` seconds after it."""
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("libx264", rate=FPS, width=SIDE, height=SIDE, pix_fmt="yuv420p")
        tracks = [container.add_stream(codec, rate=rate, layout=layout) for layout in layouts]
        for index in range(round(seconds * FPS)):
            picture = av.VideoFrame.from_ndarray(np.full((SIDE, SIDE, 3), 5 * index % 255, np.uint8), format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, FPS)
            container.mux(pictures.encode(picture))
        container.mux(pictures.encode(None))
        for number, track in enumerate(tracks):
            samples = beeps(sound_seconds, rate, track.codec_context.layout.nb_channels) / 2**number
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(samples), format="fltp", layout=track.codec_context.layout.name
            )
            frame.sample_rate, frame.pts, frame.time_base = rate, round(late * rate), Fraction(1, rate)
            container.mux(track.encode(frame))
            container.mux(track.encode(None))
    return path


def loudness(samples: Tensor, rate: int, start: float, end: float) -> list[float]:
    """Root mean square of each channel between two times."""
    return samples[:, round(start * rate) : round(end * rate)].square().mean(dim=1).sqrt().tolist()


def damage_sound(path: Path, *, share: float) -> None:
    """Overwrite the last `share` of the packets of a file's sound track."""
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(audio=0) if packet.size]
    data = path.read_bytes()
    for packet in packets[round((1 - share) * len(packets)) :]:
        at = data.index(packet)
        data = data[:at] + b"\xff" * len(packet) + data[at + len(packet) :]
    path.write_bytes(data)
