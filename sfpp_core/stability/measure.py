"""One pass over a video that measures every frame, in memory that grows by some 2 KB a frame only.

`FrameSeries` holds what is measured: light, colour, sharpness, noise, and motion. Motion is optical flow from one frame
to the next with OpenCV's dense inverse search (DIS, Kroeger et al., arXiv 1603.03590): no network and no weights, and
fast on a CPU. VBench and the paper used RAFT, which is a network; lengths of the two agree where there is texture, and
DIS sees less motion in plain areas. Sharpness and noise are each as blind to the other, and to brightness and contrast,
as can be. Colour is CIELAB, in which distances are about as large as the eye sees them.

Axes: F frames, H height, W width, K tiles, C colours (RGB, or L, a, b).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ..video.span import MAX_RATE, VideoSpan
from ..video.writer import LUMA


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FrameSeries:
    """One entry a frame, at most 16 a second. Values of light are display values: 0 black, 1 white, as encoded.

    What compares a frame with the one before is 0 for the first.
    """

    time: np.ndarray
    """[F] seconds since the start of the whole video, rising."""
    luminance: np.ndarray
    """[F] mean luma."""
    contrast: np.ndarray
    """[F] standard deviation of luma."""
    spread: np.ndarray
    """[F] 90th percentile of luma less the 10th."""
    highlights: np.ndarray
    """[F] share of pixels that are blown out: luma of at least 250/255."""
    shadows: np.ndarray
    """[F] share of pixels that are crushed: luma of at most 5/255."""
    red: np.ndarray
    """[F] mean of the red channel."""
    green: np.ndarray
    """[F] mean of the green channel."""
    blue: np.ndarray
    """[F] mean of the blue channel."""
    saturation: np.ndarray
    """[F] mean difference of a pixel's largest and smallest channel."""
    sharpness: np.ndarray
    """[F] how much finest detail there is at edges, for the shapes of four times its size; see detail.py."""
    noise: np.ndarray
    """[F] deviation of luma from its surroundings in the plain parts of the picture; see detail.py."""
    difference: np.ndarray
    """[F] mean absolute change of luma from the frame before."""
    swing: np.ndarray
    """[F] largest less smallest mean luma from the frame before to this one, frames between them included, and less
    what the two differ by: flicker that is faster than the sampling."""
    flow: np.ndarray
    """[F] mean length of the optical flow from the frame before, in picture heights a second."""
    flow_top: np.ndarray
    """[F] mean of the largest 5 % of those lengths, the statistic of VBench's dynamic degree (arXiv 2311.17982)."""
    light_change: np.ndarray
    """[F, C] change of the mean colour from the frame before, of what is seen in both, wherever it moved."""
    tiles: np.ndarray
    """[F, K, C] float32, mean colour of the tiles of a 6 x 6 grid."""
    thumbnails: np.ndarray
    """[F, H, W] uint8, small grey pictures."""

    def __post_init__(self) -> None:
        lengths = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        if not lengths["time"] or len(set(lengths.values())) != 1:
            raise ValueError(f"a series has one entry a frame and at least one frame; these have {lengths}.")
        if not (np.diff(self.time) > 0).all():
            raise ValueError("the times of a series must rise.")

    def __len__(self) -> int:
        return len(self.time)

    @property
    def rate(self) -> float:
        """Frames a second, the usual distance of two frames; 16 if there is only one frame."""
        return 1 / float(np.median(np.diff(self.time))) if len(self) > 1 else 16.0

    def between(self, start: float, end: float) -> FrameSeries:
        """The frames from `start` to before `end`, in seconds; at least one, the one shown at `start`.

        The first one keeps its comparison with the frame before it.
        """
        first, last = np.searchsorted(self.time, (start, end))
        if first == last:
            first = max(0, first - 1)
        chosen = slice(first, max(last, first + 1))
        return replace(self, **{field.name: getattr(self, field.name)[chosen] for field in fields(self)})


def true_runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """First and last (not included) index of each run of true values among flags [F]."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False]))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


_TOP_SHARE: Final = 0.05
# Patches are 8 pixels wide and the coarsest pictures smaller by far; below this size nothing is left to compare.
_LEAST_SIDE: Final = 48
# What differs by more than this from how most of the picture changed was covered, or was not found again.
_OTHER_THING: Final = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameStep:
    """The change from one frame to the next."""

    flow: float
    """Mean speed in picture heights a second."""
    flow_top: float
    """Mean of the fastest 5 %."""
    light_change: np.ndarray
    """[C] change of the mean colour of what is in both pictures, wherever it moved; 0..1 is the whole range."""


class MotionField:
    """Compares each picture with the one that it was given before."""

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        # Half of the resolution and not a quarter: the objects of small videos are a few pixels wide.
        self._flow.setFinestScale(1)
        self._before: np.ndarray | None = None
        self._grey_before: np.ndarray | None = None

    def step(self, picture: np.ndarray, seconds: float) -> FrameStep:
        """Return what happened since the picture before; all zeros for the first.

        picture: uint8 H W C, always of the same size. seconds: since the picture before.
        """
        scale = max(1.0, _LEAST_SIDE / min(picture.shape[:2]))
        if scale > 1:
            picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        before, grey_before = self._before, self._grey_before
        self._before, self._grey_before = picture, grey
        if before is None or grey_before is None:
            return FrameStep(flow=0.0, flow_top=0.0, light_change=np.zeros(3))
        # From here back to where it came from, so that each pixel of this picture finds its own past.
        flow = self._flow.calc(grey, grey_before, None)
        lengths = np.sqrt((flow * flow).sum(axis=2)).ravel() / (grey.shape[0] * seconds)
        top = max(1, int(_TOP_SHARE * lengths.size))
        return FrameStep(
            flow=float(lengths.mean()),
            flow_top=float(np.partition(lengths, -top)[-top:].mean()),
            light_change=_light_change(before, picture, flow),
        )


def _light_change(before: np.ndarray, picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """[C] mean difference of a picture, H W C, from what was before where the flow, H W 2, leads."""
    height, width = flow.shape[:2]
    columns = flow[..., 0] + np.arange(width, dtype=np.float32)
    rows = flow[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    past = cv2.remap(before.astype(np.float32), columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    known = (columns >= 0) & (columns <= width - 1) & (rows >= 0) & (rows <= height - 1)
    if not known.any():
        return np.zeros(3)
    change = (picture.astype(np.float32) - past)[known] / 255
    usual = np.median(change, axis=0)
    return usual + np.clip(change - usual, -_OTHER_THING, _OTHER_THING).mean(axis=0)


_BLOCKS: Final = (8, 8)
# Quiet blocks show noise; the quietest of all may be bars, or sky that is clipped, and show nothing.
_QUIET_PERCENTILE: Final = 35
# Blurs, in pixels: what the first takes away is the finest detail; what the third takes from the second, the shapes.
_FINE_SIGMA, _MIDDLE_SIGMA, _COARSE_SIGMA = 1.0, 2.0, 4.0
# Mean square in grey levels that rounding to whole ones leaves (1/12), most of it finest detail.
_ROUNDING: Final = 1 / 12
_LEAST_ENERGY: Final = 1e-2


def detail(grey: np.ndarray) -> tuple[float, float]:
    """Sharpness and noise of a picture, uint8 H W.

    Noise: the root mean square of what a 3 x 3 median takes away, of the blocks of an 8 x 8 grid the one at the 35th
    percentile, as a part of the range 0..1. A median leaves edges alone, and takes impulses as well as grain.

    Sharpness: of what the median left, the energy of the finest detail divided by that of details of four times the
    size, as a root; the median over the half of the blocks with the most of the latter. Brightness, contrast and empty
    areas cancel out, and an edge has the same ratio whatever its height; blur lowers it.
    """
    smooth = cv2.medianBlur(grey, 3)
    noise = np.percentile(_block_energies(cv2.absdiff(grey, smooth).astype(np.float32)), _QUIET_PERCENTILE)
    fine = cv2.GaussianBlur(smooth.astype(np.float32), (0, 0), _FINE_SIGMA)
    middle = cv2.GaussianBlur(fine, (0, 0), _MIDDLE_SIGMA)
    coarse = cv2.GaussianBlur(middle, (0, 0), _COARSE_SIGMA)
    finest, shapes = _block_energies(smooth - fine) - _ROUNDING, _block_energies(middle - coarse)
    edges = shapes >= np.median(shapes)
    ratio = np.median(finest[edges].clip(0.0) / np.maximum(shapes[edges], _LEAST_ENERGY))
    return float(np.sqrt(ratio)), float(np.sqrt(noise)) / 255


def _block_energies(values: np.ndarray) -> np.ndarray:
    """Mean square in each block."""
    return cv2.resize(cv2.multiply(values, values), _BLOCKS, interpolation=cv2.INTER_AREA)


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


def measure(video: VideoSpan, on_frame: Callable[[float], None] = lambda share: None) -> FrameSeries:
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
    """Return what the distribution of luma says."""
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


JUST_NOTICEABLE: Final = 2.3
"""The CIELAB difference of two colours that a person just sees side by side (Mahy et al., 1994)."""

# IEC 61966-2-1, annex; the rows' sums are its white, D65.
_SRGB_TO_XYZ: Final = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def cielab(rgb: NDArray[np.floating]) -> NDArray[np.float64]:
    """L (0..100), a and b (CIE 15:2004, 8.2.1) of sRGB display values in 0..1: [..., C] to [..., C].

    Not OpenCV's conversion, which goes through a table and is off by up to 0.6.
    """
    light = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = light @ (_SRGB_TO_XYZ.T / _SRGB_TO_XYZ.sum(axis=1))
    x, y, z = np.moveaxis(np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29), -1, 0)
    return np.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), axis=-1)
