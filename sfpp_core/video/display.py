"""What a player shows of a decoded frame: square pixels, upright, and white where white is meant.

Phones write frames as the sensor has them and a matrix beside them, and HDR cameras write light of up to 10,000 nits.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, VideoReformatter
from numpy.typing import NDArray

MOST_STRETCHED: Final = 10
"""A sample aspect ratio beyond this, or its inverse, is a mistake of the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Orientation:
    """The way that stored frames are turned and mirrored: transposed first, then flipped."""

    transposed: bool = False
    flipped_x: bool = False
    flipped_y: bool = False

    @classmethod
    def of(cls, frame: VideoFrame) -> Orientation:
        """Read the nearest multiple of 90 degrees from a frame's display matrix; none is upright.

        The matrix [[a, b], [c, d]] takes a stored (x, y) to (a x + c y, b x + d y) (FFmpeg, libavutil/display.h).
        """
        for entry in frame.side_data:
            if entry.type == SideDataType.DISPLAYMATRIX:
                a, b, _, c, d, *_ = np.frombuffer(bytes(entry), np.int32).tolist()
                if abs(a) + abs(d) >= abs(b) + abs(c):
                    return cls(flipped_x=a < 0, flipped_y=d < 0)
                return cls(transposed=True, flipped_x=c < 0, flipped_y=b < 0)
        return cls()

    def turn(self, picture_HWC: NDArray) -> NDArray:
        """Turn a stored picture as it is shown."""
        picture = picture_HWC.transpose(1, 0, 2) if self.transposed else picture_HWC
        turned = picture[:: -1 if self.flipped_y else 1, :: -1 if self.flipped_x else 1]
        return np.ascontiguousarray(turned)


class Display:
    """Shows the frames of one stream: all in the size and orientation of its first."""

    def __init__(
        self, first: VideoFrame, sample_aspect_ratio: Fraction | None, *, transfer: int, primaries: int
    ) -> None:
        """sample_aspect_ratio: width of a stored pixel in its heights; None or 0 for square ones.

        transfer, primaries: FFmpeg's numbers of the stream's transfer characteristic and primaries.
        """
        self._transfer, self._primaries = transfer, primaries
        self._orientation = Orientation.of(first)
        ratio = sample_aspect_ratio or Fraction(1)
        if not Fraction(1, MOST_STRETCHED) <= ratio <= MOST_STRETCHED:
            ratio = Fraction(1)
        self._height, self._width = first.height, max(1, round(first.width * ratio))
        self._to_rgb = VideoReformatter()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in square pixels, upright."""
        size = self._height, self._width
        return size[::-1] if self._orientation.transposed else size

    def show(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """The picture of a frame, uint8 H W C."""
        if self._transfer in _TO_NITS:
            picture = self._converted(frame, "rgb48le")
            return self._orientation.turn(to_standard_range(picture, self._transfer, self._primaries))
        return self._orientation.turn(self._converted(frame, "rgb24"))

    def _converted(self, frame: VideoFrame, form: str) -> NDArray:
        # Naming the range makes PyAV before 17 heed the file's colour matrix too; naming the size holds it, should the
        # stream change its own on the way.
        full = ColorRange.JPEG
        return self._to_rgb.reformat(frame, self._width, self._height, format=form, dst_color_range=full).to_ndarray()


WHITE_NITS: Final = 203.0
"""Of a white page in HDR (ITU-R BT.2408)."""
KNEE: Final = 0.8
"""Share of that white up to which light stays as it is; all above is pressed between it and 1."""
DISPLAY_GAMMA: Final = 2.4
"""Of a display of standard range (ITU-R BT.1886)."""
BT2020: Final = 9
"""FFmpeg's number for these primaries (AVCOL_PRI_BT2020)."""
BT2020_TO_BT709: Final = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
"""Linear light (ITU-R BT.2087)."""


def to_standard_range(signal_HWC: NDArray[np.uint16], transfer: int, primaries: int) -> NDArray[np.uint8]:
    """Tone-map a picture in PQ or HLG, uint16 H W C, to uint8. transfer, primaries: FFmpeg's numbers of its own."""
    light = _TO_NITS[transfer](signal_HWC.astype(np.float32) / 65535) / WHITE_NITS
    if primaries == BT2020:
        light = light @ BT2020_TO_BT709.T
    light = np.maximum(light, 0.0)
    pressed = np.where(light > KNEE, 1 - (1 - KNEE) * np.exp((KNEE - light) / (1 - KNEE)), light)
    return np.rint(255 * pressed ** (1 / DISPLAY_GAMMA)).astype(np.uint8)


def _pq_to_nits(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    """SMPTE ST 2084's electro-optical transfer function, equation 4.1."""
    root = signal ** np.float32(1 / 78.84375)
    return 10_000 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** np.float32(1 / 0.1593017578125)


def _hlg_to_nits(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    """ITU-R BT.2100's HLG: inverse OETF, then the OOTF of a display of 1000 nits (gamma 1.2)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593], np.float32)
    return 1000 * scene * np.maximum(luminance, 1e-6)[..., None] ** np.float32(0.2)


_TO_NITS: Final = {16: _pq_to_nits, 18: _hlg_to_nits}
"""By FFmpeg's number of a transfer characteristic (AVCOL_TRC_SMPTE2084, AVCOL_TRC_ARIB_STD_B67)."""
