"""One pass over a video that measures every frame, at memory that does not grow but for some 2 KB a frame.

Axes: H height, W width, C colours (RGB).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import cv2
import numpy as np

from ...video.color import LUMA
from ..footage import MAX_RATE, Footage
from .detail import detail
from .motion_field import MotionField
from .series import FrameSeries

# Larger pictures are averaged down first: it bounds the time, and what matters to somebody who watches still shows.
_MAX_SIDE: Final = 960
_SMALL_SIDE: Final = 256
_THUMBNAIL_SIDE: Final = 36
_TILES: Final = (6, 6)
_BLOWN_OUT, _CRUSHED = 250, 5
_SPREAD: Final = (0.1, 0.9)
# Flicker at half of this rate is still seen; faster than this, no display shows it.
_SWING_RATE: Final = 120.0
_CLOCK_ERROR_SECONDS: Final = 1e-3


def measure(video: Footage, on_frame: Callable[[float], None] = lambda share: None) -> FrameSeries:
    """Measure the frames of a span, at most 16 a second; of those between, only how bright they are.

    on_frame: called after each frame with the share of the span that is done, 0..1; may raise to stop.

    Raises:
        VideoFileError: the file is damaged or cut short.
    """
    meter, measured = _Meter(), []
    due = video.start
    for time, picture in video.frames(_SWING_RATE):
        meter.see(picture)
        if time >= due:
            measured.append({"time": time, **meter.measure(time, picture)})
            due = time + 1 / MAX_RATE - _CLOCK_ERROR_SECONDS
        on_frame(min(1.0, (time - video.start) / video.duration))
    on_frame(1.0)
    return FrameSeries(**{name: np.stack([frame[name] for frame in measured]) for name in measured[0]})


class _Meter:
    """Measures a frame, and what it needs to know of the one before."""

    def __init__(self) -> None:
        self._motion = MotionField()
        self._time = 0.0
        self._grey: np.ndarray | None = None
        self._lumas: list[float] = []

    def see(self, picture: np.ndarray) -> None:
        """Take notice of a frame, uint8 H W C, whether it is measured or not."""
        self._lumas.append(float(np.dot(cv2.mean(picture)[:3], LUMA)) / 255)

    def measure(self, time: float, picture: np.ndarray) -> dict[str, float | np.ndarray]:
        """The entries of a series for the frame that was seen last."""
        picture = _at_most(picture, _MAX_SIDE)
        small = _at_most(picture, _SMALL_SIDE)
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        small_grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        sharpness, noise = detail(grey)
        step = self._motion.step(small, time - self._time)
        difference = 0.0 if self._grey is None else float(cv2.mean(cv2.absdiff(grey, self._grey))[0]) / 255
        swing = max(self._lumas) - min(self._lumas) - abs(self._lumas[-1] - self._lumas[0])
        self._time, self._grey, self._lumas = time, grey, self._lumas[-1:]
        return {
            **_light(grey),
            **_colours(small),
            "sharpness": sharpness,
            "noise": noise,
            "difference": difference,
            "swing": swing,
            "flow": step.flow,
            "flow_top": step.flow_top,
            "light_change": step.light_change,
            "thumbnails": _at_most(small_grey, _THUMBNAIL_SIDE),
        }


def _light(grey: np.ndarray) -> dict[str, float]:
    """What the distribution of luma says."""
    shares = cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel().astype(np.float64) / grey.size
    values = np.arange(256) / 255
    mean = float(shares @ values)
    low, high = np.searchsorted(np.cumsum(shares), _SPREAD)
    return {
        "luminance": mean,
        "contrast": float(np.sqrt(shares @ (values - mean) ** 2)),
        "spread": float(values[min(high, 255)] - values[low]),
        "highlights": float(shares[_BLOWN_OUT:].sum()),
        "shadows": float(shares[: _CRUSHED + 1].sum()),
    }


def _colours(small: np.ndarray) -> dict[str, float | np.ndarray]:
    """Means of the channels, over the picture and over its tiles."""
    red, green, blue = cv2.split(small)
    span = cv2.max(cv2.max(red, green), blue) - cv2.min(cv2.min(red, green), blue)
    tiles = cv2.resize(small.astype(np.float32) / 255, _TILES, interpolation=cv2.INTER_AREA)
    means = (float(mean) / 255 for mean in cv2.mean(small)[:3])
    return {
        **dict(zip(("red", "green", "blue"), means, strict=True)),
        "saturation": float(span.mean()) / 255,
        "tiles": tiles.reshape(-1, 3),
    }


def _at_most(picture: np.ndarray, side: int) -> np.ndarray:
    """The picture with its longer side no longer than `side`; averaged, so that no detail turns into a pattern."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
