"""Cuts, and what a series would be without the jumps of light and colour that come with them.

A video may cut: the next shot is not damaged because it is darker. So most of a jump at a cut is taken out before
anything is compared with the first seconds, and what drifts within shots counts as drift; the cut itself is a small
damage, and what is left of the jump makes one to an unlike world a larger one.

A video may also open in black and fade in: black is nothing to compare with, so its first seconds are those after that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from ..measure import FrameSeries


def severity(amount: np.ndarray, scale: float, power: float = 2.0) -> np.ndarray:
    """1 - exp(-(amount / scale) ** power), the Weibull psychometric function; negative amounts count as none.

    An amount of a third of the scale is hardly seen (0.1), the scale itself is plain (0.63), twice the scale leaves
    nothing to lose (0.98). It rises strictly, so that more damage is never rated better.
    """
    return 1 - np.exp(-((np.maximum(amount, 0.0) / scale) ** power))


def combined(*severities: np.ndarray) -> np.ndarray:
    """Return what several damages take together, each from what the others leave."""
    kept = np.ones_like(severities[0])
    for each in severities:
        kept = kept * (1 - each)
    return 1 - kept


def window_frames(seconds: float, rate: float, least: int = 1) -> int:
    """A length of time in frames."""
    return max(least, round(seconds * rate))


def windowed_median(values: np.ndarray, width: int) -> np.ndarray:
    """[F] median of the `width` values around each, fewer at the ends."""
    return np.nanmedian(_windows(values, width), axis=1)


def windowed_mean(values: np.ndarray, width: int) -> np.ndarray:
    """[F] mean of the `width` values around each, fewer at the ends."""
    return np.nanmean(_windows(values, width), axis=1)


def _windows(values: np.ndarray, width: int) -> np.ndarray:
    """[F] to [F, width]: the values around each, NaN beyond the ends."""
    before = (width - 1) // 2
    padded = np.pad(values.astype(np.float64), (before, width - 1 - before), constant_values=np.nan)
    return np.lib.stride_tricks.sliding_window_view(padded, width)


# A picture whose grey levels differ by less than this is plain: its noise is no structure.
_LEAST_DEVIATION: Final = 2.0
# The change of structure is the root mean square difference of two standardised pictures: 0 for equal ones, 1.41 for
# unrelated ones. Part of a picture that moves makes 0.05 to 0.3 from frame to frame; a cut stands out from that.
_LEAST_CHANGE: Final = 0.12
_CHANGE_OF_SCENE: Final = 0.6
_MOST_EXCUSED: Final = 0.75
_UNRELATED: Final = 1.2
# How far: 2.5 times as much where motion might explain it, 1.5 times where the pictures have nothing in common.
_STANDS_OUT, _STANDS_OUT_UNRELATED = 2.5, 1.5
_NEIGHBOURHOOD_SECONDS: Final = 1.0
_NEXT_FRAMES: Final = 2
_NOTHING_IN_COMMON: Final = 1.41
# Mean change of a tile's channel, relative to the picture's mean: two videos of unlike colours differ by this much.
_OTHER_COLOURS: Final = 0.6
_DARK: Final = 0.02
# A black picture, in display values: limited range that is read as full makes 16/255 of it.
_BLACK: Final = 17 / 255
# Faded in is what has most of the contrast that the next seconds have.
_OPENING_SECONDS: Final = 3.0
_FADED_IN_SHARE: Final = 0.8
_UNLIT_SHARE: Final = 0.3
_NEIGHBOURS_PERCENTILE: Final = 80
_LEVEL_SECONDS: Final = 0.4


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """A picture that does not follow from the one before."""

    frame: int
    """The first frame after it."""
    change: float
    """Of structure: 0 none, about 1.4 when the two pictures have nothing in common."""
    distance: float
    """0 (nowhere) to 1 (another world): the mean of the changes of structure, of layout and of colour."""

    @property
    def excused_share(self) -> float:
        """Return how much of a jump of light or colour the cut excuses: most of it where it leads to another scene."""
        share = min(1.0, max(0.0, (self.change - _LEAST_CHANGE) / (_CHANGE_OF_SCENE - _LEAST_CHANGE)))
        return _MOST_EXCUSED * share * share * (3 - 2 * share)


def standardised(thumbnails: np.ndarray) -> np.ndarray:
    """Thumbnails [F, H, W] as float32 [F, H x W] with mean 0 and mean square 1: brightness and contrast cancel out."""
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.sqrt((flat**2).mean(axis=1, keepdims=True) + _LEAST_DEVIATION**2)


def structural_change(pictures: np.ndarray) -> np.ndarray:
    """[F] change of standardised pictures from the one before; 0 for the first."""
    steps = np.diff(pictures, axis=0, prepend=pictures[:1])
    return np.sqrt((steps**2).mean(axis=1))


def stands_out(change: np.ndarray, frame: int, rate: float) -> bool:
    """Return whether a change is far above those around it: motion is as fast before and after, a jump is alone.

    It is compared with the two frames before and after it, and, because choppy videos move by jumps, with most of what
    is within a second.
    """
    share = np.clip((change[frame] - _LEAST_CHANGE) / (_UNRELATED - _LEAST_CHANGE), 0, 1)
    factor = _STANDS_OUT + share * (_STANDS_OUT_UNRELATED - _STANDS_OUT)
    reach = window_frames(_NEIGHBOURHOOD_SECONDS, rate)
    before, after = change[max(1, frame - reach) : frame], change[frame + 1 : frame + 1 + reach]
    next_to_it = np.concatenate((before[-_NEXT_FRAMES:], after[:_NEXT_FRAMES]))
    if not len(next_to_it):
        return True
    usual = np.percentile(np.concatenate((before, after)), _NEIGHBOURS_PERCENTILE)
    return bool(change[frame] > factor * next_to_it.max() and change[frame] > _STANDS_OUT_UNRELATED * usual)


def find_cuts(series: FrameSeries) -> list[Cut]:
    """Abrupt changes of structure that last: a flash, or one broken frame, is none."""
    pictures = standardised(series.thumbnails)
    change = structural_change(pictures)
    cuts = []
    for frame in np.flatnonzero(change > _LEAST_CHANGE):
        after = min(frame + 1, len(series) - 1)
        lasting = np.sqrt(((pictures[after] - pictures[frame - 1]) ** 2).mean())
        if lasting > 0.7 * change[frame] and stands_out(change, frame, series.rate):
            distance = _distance(series.tiles[frame - 1], series.tiles[frame], float(change[frame]))
            cuts.append(Cut(frame=int(frame), change=float(change[frame]), distance=distance))
    return cuts


def _distance(before: np.ndarray, after: np.ndarray, change: float) -> float:
    """Return how far a cut leads: a shift by half a picture changes the layout [K, C] more than one by a tenth."""
    layouts = standardised(255 * np.stack((before, after)).mean(axis=2))
    layout = float(structural_change(layouts)[1])
    # Relative to the mean of each, so that a video that is darker has cuts as hard as before.
    colour = float(np.abs(after / (after.mean() + _DARK) - before / (before.mean() + _DARK)).mean())
    parts = change / _NOTHING_IN_COMMON, layout / _NOTHING_IN_COMMON, colour / _OTHER_COLOURS
    return sum(min(1.0, part) for part in parts) / len(parts)


def without_jumps(values: np.ndarray, cuts: list[Cut], rate: float) -> np.ndarray:
    """Values [F, ...] less what the cuts so far excuse of their jumps."""
    reach = window_frames(_LEVEL_SECONDS, rate, least=2)
    bounds = [0, *(cut.frame for cut in cuts), len(values)]
    level = values.astype(np.float64).copy()
    for number, cut in enumerate(cuts, start=1):
        before = values[max(bounds[number - 1], cut.frame - reach) : cut.frame]
        after = values[cut.frame : min(bounds[number + 1], cut.frame + reach)]
        level[cut.frame :] -= cut.excused_share * (np.median(after, axis=0) - np.median(before, axis=0))
    return level


@dataclass(frozen=True, kw_only=True, slots=True)
class Shots:
    """A series with its cuts, and the first seconds that everything is compared with."""

    series: FrameSeries
    cuts: list[Cut]

    @classmethod
    def of(cls, series: FrameSeries) -> Shots:
        """Find the cuts of a series."""
        return cls(series=series, cuts=find_cuts(series))

    @property
    def opening(self) -> int:
        """Frames that a video takes to come out of black; 0 if it has a picture at once, or none at all.

        Fading in scales light and contrast alike: both begin far below where they are some seconds later.
        """
        light, contrast, plain = self.series.luminance, self.series.contrast, _LEAST_DEVIATION / 255
        if contrast.max() <= plain:
            return 0
        first = int(np.argmax(contrast > plain)) if light[0] < _BLACK else 0
        next_seconds = slice(first, first + window_frames(_OPENING_SECONDS, self.series.rate))
        settled = float(np.median(contrast[next_seconds]))
        if max(contrast[0] / settled, light[0] / np.median(light[next_seconds])) > _UNLIT_SHARE:
            return 0
        return first + int(np.argmax(contrast[first:] >= _FADED_IN_SHARE * settled))

    @property
    def first_frames(self) -> slice:
        """The first seconds: a tenth of the video, at least half a second, at most two, and none beyond a cut."""
        opening = self.opening
        seconds = min(2.0, max(0.5, 0.1 * float(self.series.time[-1] - self.series.time[0])))
        last = min(opening + window_frames(seconds, self.series.rate, least=2), len(self.series))
        return slice(opening, min([last, *(cut.frame for cut in self.cuts if cut.frame > opening)]))

    def light_drift(self) -> np.ndarray:
        """[F, C] by how much what is seen became lighter since the first seconds, added up from frame to frame."""
        steps = self.series.light_change.astype(np.float64).copy()
        for cut in self.cuts:
            steps[cut.frame] *= 1 - cut.excused_share
        return self._since_the_first_seconds(np.cumsum(steps, axis=0))

    def drift(self, values: np.ndarray) -> np.ndarray:
        """Values [F, ...] less their level in the first seconds, without what they jumped by at cuts."""
        return self._since_the_first_seconds(without_jumps(values, self.cuts, self.series.rate))

    def _since_the_first_seconds(self, level: np.ndarray) -> np.ndarray:
        """[F, ...] less the level in the first seconds; 0 before them."""
        drift = level - np.median(level[self.first_frames], axis=0)
        drift[: self.opening] = 0.0
        return drift
