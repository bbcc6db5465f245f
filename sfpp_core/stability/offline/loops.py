"""Footage that goes back to an earlier picture and then runs on as it did before.

Periodic motion is no loop: a ball that bounces comes to the same place on its own course. So a loop is a stretch that
(1) repeats an earlier one, (2) does not merely stand still: it differs from other moments far more than from those that
it repeats, and (3) leaves the course that the video was on: it begins with a jump, or what came before it did not
repeat anything at that distance. In a video that was periodic already, whatever follows a cut repeats something, at
the distance that the cut happens to make. There a loop must also (4) repeat its own jump, as one that comes round twice
does. A loop from the very first frame on whose end meets its beginning is periodic motion and is not found, nor is one
of more than 20 seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from ..measure import FrameSeries
from .shots import window_frames

_LEAST_LAG_SECONDS, _MOST_LAG_SECONDS = 0.5, 20.0
_LEAST_SECONDS: Final = 0.5
# In grey levels of a thumbnail, root mean square: rounding and the codec leave up to this between equal frames.
_EQUAL: Final = 1.2
# Of the usual step from frame to frame: what is left of fast motion between two frames that were measured.
_EQUAL_STEPS: Final = 1.0
_JUMP, _LEAST_JUMP = 2.5, 1.4
_UNRELATED_SHARE: Final = 0.75
_UNLIKE: Final = 3.0
# Frames in a row that may fail without ending a repetition, such as those at a cut inside of it.
_PATIENCE: Final = 3
_COURSE_FRAMES: Final = 4
_MOST_COMPARED: Final = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Loop:
    """Frames `first` to before `last` repeat those `lag` to `lag` + 1 frames earlier."""

    first: int
    last: int
    lag: int


def find_loops(series: FrameSeries) -> list[Loop]:
    """The repeated stretches of a series, earliest first; they do not overlap."""
    video = _Signal(series)
    loops: list[Loop] = []
    periodic: list[Loop] = []
    for run in sorted(_repetitions(video), key=lambda run: (run.first, run.lag)):
        if loops and run.last <= loops[-1].last:
            continue
        repetition = _Repetition(run, video)
        if not repetition.stands_apart():
            continue
        if repetition.leaves_course() and (not repetition.goes_on_from(periodic) or repetition.jumps_again()):
            first = max(run.first, loops[-1].last) if loops else run.first
            loops.append(Loop(first=first, last=run.last, lag=run.lag))
        elif not loops or run.first >= loops[-1].last:
            periodic.append(run)
    return loops


class _Signal:
    """Thumbnails as vectors, and how far they are apart.

    Frames are sampled, and a loop need not be a whole number of samples long. So the distance at a lag is that to the
    line between the pictures `lag` and `lag` + 1 frames earlier: what was between two samples lies close to it.
    """

    def __init__(self, series: FrameSeries) -> None:
        flat = series.thumbnails.reshape(len(series), -1).astype(np.float32)
        self.rate = series.rate
        self.pictures = flat / np.sqrt(flat.shape[1])
        self.squares = (self.pictures**2).sum(axis=1)
        self.step_squares = (np.diff(self.pictures, axis=0, prepend=self.pictures[:1]) ** 2).sum(axis=1)
        self.steps = np.sqrt(self.step_squares)
        self.usual_steps = np.array([np.median(self.steps_around(frame)) for frame in range(len(flat))])

    def steps_around(self, frame: int) -> np.ndarray:
        """The steps within half a second, that to the frame itself left out."""
        reach = window_frames(0.5, self.rate, least=2)
        nearby = self.steps[max(1, frame - reach) : frame], self.steps[frame + 1 : frame + 1 + reach]
        return np.concatenate(nearby) if sum(map(len, nearby)) else np.zeros(1)

    def distances(self, frame: int, lags: np.ndarray) -> np.ndarray:
        """Root mean square grey levels between a frame and those at rising, adjacent `lags`, at most `frame`."""
        later = frame - lags
        earlier = np.maximum(later - 1, 0)
        products = self.pictures[earlier[-1] : later[0] + 1] @ self.pictures[frame]
        to_later, to_earlier = products[later - earlier[-1]], products[earlier - earlier[-1]]
        along = to_earlier - to_later + (self.squares[later] - self.squares[earlier] + self.step_squares[later]) / 2
        length = np.where(later > 0, self.step_squares[later], 0.0)
        share = np.clip(along / np.maximum(length, 1e-6), 0, 1)
        square = self.squares[frame] + self.squares[later] - 2 * to_later - 2 * share * along + share**2 * length
        return np.sqrt(np.maximum(square, 0))

    def typical_distance(self, frames: np.ndarray, lag: int) -> float:
        """Median over frames; of many, some."""
        frames = frames[frames >= lag]
        frames = frames[:: max(1, len(frames) // _MOST_COMPARED)]
        return float(np.median([self.distances(frame, np.array([lag]))[0] for frame in frames])) if len(frames) else 0.0


def _repetitions(video: _Signal) -> list[Loop]:
    """Every stretch that equals the one `lag` frames earlier, for all lags at once, in one pass over time."""
    num_frames = len(video.pictures)
    least, most = (window_frames(seconds, video.rate, least=2) for seconds in (_LEAST_LAG_SECONDS, _MOST_LAG_SECONDS))
    lags = np.arange(least, max(least, min(most, num_frames - 1)) + 1)
    equal = np.maximum(_EQUAL, _EQUAL_STEPS * video.usual_steps)
    runs = _Runs(lags, window_frames(_LEAST_SECONDS, video.rate))
    for frame in range(least, num_frames):
        known = lags[: frame - least + 1]
        matches = video.distances(frame, known) <= equal[frame]
        runs.advance(frame, np.pad(matches, (0, len(lags) - len(known))))
    return runs.finish()


class _Runs:
    """Runs of matches for each lag."""

    def __init__(self, lags: np.ndarray, least_frames: int) -> None:
        self._lags, self._least = lags, least_frames
        self._first = np.full(len(lags), -1)
        self._matched = np.full(len(lags), -1)
        self._done: list[Loop] = []

    def advance(self, frame: int, matches: np.ndarray) -> None:
        """Take the matches [lags] of the next frame."""
        self._close((self._first >= 0) & (frame - self._matched > _PATIENCE))
        self._first[matches & (self._first < 0)] = frame
        self._matched[matches] = frame

    def finish(self) -> list[Loop]:
        """Return all runs that were long enough."""
        self._close(self._first >= 0)
        return self._done

    def _close(self, ended: np.ndarray) -> None:
        for index in np.flatnonzero(ended & (self._matched + 1 - self._first >= self._least)):
            first, last = int(self._first[index]), int(self._matched[index]) + 1
            self._done.append(Loop(first=first, last=last, lag=int(self._lags[index])))
        self._first[ended] = -1


class _Repetition:
    """A stretch that repeats an earlier one, and what tells a loop from other reasons for that."""

    def __init__(self, run: Loop, video: _Signal) -> None:
        self._run, self._video = run, video
        frames = np.arange(run.first, run.last)
        self._repeated = max(video.typical_distance(frames, run.lag), _EQUAL / 2)
        other_lags = {run.lag // 4, run.lag // 2, 3 * run.lag // 4} - {0}
        self._unlike = min(video.typical_distance(frames, lag) for lag in other_lags)

    def stands_apart(self) -> bool:
        """Return whether it is closer to what it repeats than the footage is to itself at other distances."""
        return self._unlike >= _UNLIKE * self._repeated

    def leaves_course(self) -> bool:
        """Return whether it begins with a jump, or what came before it did not repeat anything at that distance."""
        if self._is_jump(self._run.first):
            return True
        before = np.arange(self._run.first - _COURSE_FRAMES, self._run.first - 1)
        return self._video.typical_distance(before, self._run.lag + 1) > 2 * _UNLIKE * self._repeated

    def goes_on_from(self, periodic: list[Loop]) -> bool:
        """Return whether the frames before it belong to a repetition that kept its course: the motion was periodic."""
        least = window_frames(_LEAST_SECONDS, self._video.rate)
        return any(run.first + least <= self._run.first <= run.last + _PATIENCE for run in periodic)

    def jumps_again(self) -> bool:
        """Return whether a jump is among what is repeated: footage that comes round again jumps each time."""
        least = window_frames(_LEAST_SECONDS, self._video.rate)
        return any(self._is_jump(frame) for frame in range(self._run.first + least, self._run.last))

    def _is_jump(self, frame: int) -> bool:
        """Return whether a step is far above those around it.

        Where everything moves fast, a step is nearly as far as any picture is from any other: a jump cannot be more.
        """
        step, usual = self._video.steps[frame], self._video.usual_steps[frame]
        farthest = min(_JUMP * usual, _UNRELATED_SHARE * self._unlike)
        return bool(step > max(_EQUAL, _LEAST_JUMP * usual, farthest))
