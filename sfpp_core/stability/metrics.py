"""The figures of a long video: how it moves, flickers, drifts and repeats.

Motion is read from the optical flow between neighbouring sampled frames that measure.py measures. The benchmarks named
below take theirs from RAFT: figures of the two must not be mixed in one table.

RIFLEx (arXiv 2502.15894) found that models which are run past the length they were trained on often start again from
the first frame, and gives models a NoRepeat score: the percentage of videos that do not. We read its rule as: the part
beyond the training length is compared with the part within it, and a video repeats if they come closer than a threshold
in the L2 distance of frames. The threshold is not published, and a plain distance cannot tell a video that starts again
from one that has come to rest, or shows little change at all. What is computed here, per video:

- frames are the small grey pictures of a `FrameSeries`, each minus its mean, so that a loop under drifting exposure or
  flicker is still one;
- every run of two seconds beyond the first part is laid over every run of two seconds within it, frame by frame;
- the match is the share of the earlier run's movement (its variance over time, pixel by pixel) that the later run
  follows: 1 - mean squared distance / variance. An exact copy has 1, a still picture at the earlier run's mean has 0;
- the video repeats if a match reaches `SAME_RUN`. The NoRepeat score of many videos is the percentage that does not.

A run in which nothing moves matches nothing, so a video that stands still or slows down does not repeat: that is a
matter for the dynamic degree and the frozen spans. Real periodic motion, such as a pendulum's, does count.

Axes: F frames, L later runs, E early runs, P pixels, W windows. The first frame has none before it; its flow counts for
nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .measure import FrameSeries, cielab, true_runs
from .score import segment_spans

DYNAMIC_SPEED: Final = 8 * 6 / 256
"""Short sides of the picture a second. VBench's threshold is 6 pixels, for a short side of 256, between frames 1/8 s
apart (vbench/dynamic_degree.py, set_params)."""
DYNAMIC_SHARE: Final = 4 / 16
"""Share of the frame pairs that must move faster than that for a clip to be dynamic (same place)."""
DYNAMIC_WINDOW_SECONDS: Final = 2.0
"""VBench-Long cuts a video into clips of this length (vbench2_beta_long/configs/clip_length_mix.yaml)."""

VARIANCE_FRAMES: Final = 8
"""Length of the windows in which Self-Forcing++ takes the variance of the flow (arXiv 2510.02283)."""

SPIKE_SPEED: Final = DYNAMIC_SPEED
"""Picture heights a second by which a spike stands out at least: less is a gesture, not a change of scene."""
SPIKE_DEVIATIONS: Final = 6.0
"""Standard deviations of the frames around it by which a spike stands out at least."""
_NORMAL_PER_MAD: Final = 1.4826  # a normal distribution's standard deviation, in median absolute deviations

FROZEN_DIFFERENCE: Final = 0.25 / 255
"""Mean change of luma below which two frames count as the same: a quarter of a grey level, what re-encoding does to a
picture that stands still."""
FROZEN_SPEED: Final = 0.01
"""Picture heights a second that nothing may move in a frozen span: it would take over a minute to cross the picture."""
FROZEN_SECONDS: Final = 0.5
"""The shortest frozen span: drawn animation holds its pictures for up to a quarter of a second."""


def dynamic_windows(series: FrameSeries) -> NDArray[np.bool_]:
    """Return whether each window of 2 s is dynamic: [W].

    VBench calls a clip dynamic if in a quarter of its frame pairs the mean of the largest 5 % of flow magnitudes is
    above a threshold that grows with the picture. VBench-Long gives a long video the share of its 2-second clips that
    are, which is the mean of what comes back. Differs from both: DIS instead of RAFT; every sampled pair counts, not
    only pairs 1/8 s apart, with the threshold as a speed; windows are not cut at changes of scene. A rest of less than
    a second belongs to the window before it.
    """
    height, width = series.thumbnails.shape[1:]
    short_side = min(height, width) / height
    fast = series.flow_top > DYNAMIC_SPEED * short_side
    since = series.time - series.time[0]
    starts = [start for start, _ in segment_spans(since[-1] + 1 / series.rate, DYNAMIC_WINDOW_SECONDS)]
    windows = np.searchsorted(starts, since[1:], side="right") - 1
    return np.array([fast[1:][windows == index].mean() >= DYNAMIC_SHARE for index in np.unique(windows)], dtype=bool)


def flow_variances(series: FrameSeries) -> NDArray[np.float64]:
    """Variance of the flow magnitude in every run of 8 frames, in (picture heights a second) squared: [F - 8], or [0].

    The measure by which Self-Forcing++ judges its reinforcement learning: even motion has little of it, and an abrupt
    change of scene, whose flow is large and meaningless, has much.
    """
    flow = series.flow[1:].astype(np.float64)
    if len(flow) < VARIANCE_FRAMES:
        return np.empty(0)
    return np.lib.stride_tricks.sliding_window_view(flow, VARIANCE_FRAMES).var(axis=1)


def flow_spikes(series: FrameSeries) -> NDArray[np.float64]:
    """Times in seconds at which the flow leaps: abrupt changes of scene, jumps of the camera.

    Our own rule, the paper gives none: a frame whose flow is above the median of the 8 frames on either side by
    `SPIKE_DEVIATIONS` standard deviations (estimated from the median absolute deviation, which the spike itself cannot
    raise) and by `SPIKE_SPEED`. Of spikes less than 8 frames apart only the largest counts.
    """
    flow = series.flow[1:].astype(np.float64)
    if len(flow) <= VARIANCE_FRAMES:
        return np.empty(0)
    around = np.lib.stride_tricks.sliding_window_view(
        np.pad(flow, VARIANCE_FRAMES, mode="reflect"), 2 * VARIANCE_FRAMES + 1
    )
    median = np.median(around, axis=1)
    deviation = _NORMAL_PER_MAD * np.median(np.abs(around - median[:, None]), axis=1)
    excess = flow - median
    spikes: list[int] = []
    for index in np.flatnonzero(excess > np.maximum(SPIKE_SPEED, SPIKE_DEVIATIONS * deviation)):
        if not spikes or index - spikes[-1] >= VARIANCE_FRAMES:
            spikes.append(index)
        elif excess[index] > excess[spikes[-1]]:
            spikes[-1] = index
    return series.time[1:][spikes]


def frozen_spans(series: FrameSeries) -> tuple[tuple[float, float], ...]:
    """Start and end, in seconds, of each stretch in which the same picture is shown for half a second or longer.

    Says nothing about fault: a video that is still on purpose is frozen too.
    """
    same = (series.difference < FROZEN_DIFFERENCE) & (series.flow_top < FROZEN_SPEED)
    same[0] = False
    ends = np.append(series.time[1:], series.time[-1] + 1 / series.rate)
    spans = [(float(series.time[first - 1]), float(ends[last - 1])) for first, last in true_runs(same)]
    return tuple((start, end) for start, end in spans if end - start >= FROZEN_SECONDS)


FIRST_PART_SECONDS: Final = 5.0
"""What the published students were trained on."""
RUN_SECONDS: Final = 2.0
SAME_RUN: Final = 0.8
"""Share of the movement that must be followed; what loops and other videos were measured to have: docs/stability.md."""
_STILL: Final = (0.5 / 255) ** 2  # variance of a picture that moves by less than half a grey level
_FRAMES_AT_A_TIME: Final = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Repetition:
    """The closest that a video comes to playing its first seconds again."""

    match: float
    """1 for an exact copy, 0 or less for none."""
    start: float
    """Seconds: where the later run begins."""
    source: float
    """Seconds: where the run begins that it is like."""

    @property
    def repeats(self) -> bool:
        """Return whether that is close enough to call the video repeating."""
        return self.match >= SAME_RUN


def closest_repetition(series: FrameSeries) -> Repetition | None:
    """See the file's head. None if nothing can be told: the video is too short, or its beginning does not move."""
    run = round(RUN_SECONDS * series.rate)
    num_early = int(np.count_nonzero(series.time - series.time[0] < FIRST_PART_SECONDS))
    if run < 2 or num_early < run or len(series.time) - num_early < run:
        return None
    early = _centred(series.thumbnails[:num_early])
    moved = np.array([early[start : start + run].var(axis=0).mean() for start in range(num_early - run + 1)])
    distances = _run_means(_squared_distances(series.thumbnails[num_early:], early), run)
    moving = moved > _STILL
    if not moving.any():
        return None
    matches = 1 - distances[:, moving] / moved[moving]
    later, source = np.unravel_index(np.argmax(matches), matches.shape)
    return Repetition(
        match=float(np.clip(matches[later, source], -1, 1)),
        start=float(series.time[num_early + later]),
        source=float(series.time[np.flatnonzero(moving)[source]]),
    )


def _centred(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[F, h, w] to [F, P] in display values, each frame's mean taken off."""
    pixels = thumbnails.reshape(len(thumbnails), -1).astype(np.float32) / 255
    return pixels - pixels.mean(axis=1, keepdims=True)


def _squared_distances(thumbnails: NDArray[np.uint8], early: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean squared difference of each frame [F, h, w] to each early frame [E, P]: [F, E]."""
    num_pixels = early.shape[1]
    rows = []
    for first in range(0, len(thumbnails), _FRAMES_AT_A_TIME):
        late = _centred(thumbnails[first : first + _FRAMES_AT_A_TIME])
        squares = (late**2).sum(axis=1)[:, None] + (early**2).sum(axis=1) - 2 * late @ early.T
        rows.append(np.maximum(squares, 0) / num_pixels)
    return np.concatenate(rows)


def _run_means(distances: NDArray[np.float32], run: int) -> NDArray[np.float32]:
    """Mean along the diagonals: [F, E] frame distances to the distances of runs of `run` frames that start there."""
    num_late, num_early = (length - run + 1 for length in distances.shape)
    total = np.zeros((num_late, num_early), dtype=np.float32)
    for step in range(run):
        total += distances[step : step + num_late, step : step + num_early]
    return total / run


REFERENCE_SECONDS: Final = 2.0
"""What a video is compared with: a few-step model has not drifted yet in its first chunks (0.75 s each)."""
LEAST_REFERENCE: Final = 1 / 255
"""The smallest value that a ratio is taken to: a start below it, one grey level for contrast, is an empty picture."""


def exposure_drift(series: FrameSeries) -> NDArray[np.float64]:
    """Mean luma minus that of the first seconds: [F], display values; above 0 is brighter."""
    return series.luminance - _reference(series, series.luminance)


def color_drift(series: FrameSeries) -> NDArray[np.float64]:
    """Measure how far the mean colour is from that of the first seconds: [F], in units of CIELAB, exposure left out.

    The CIE 1976 colour difference without its lightness, sqrt(da^2 + db^2), so that a video that only gets brighter has
    little of it. The channel means are means of display values: their colour stands for the picture's cast and is no
    mean of what each pixel looks like.
    """
    lab = cielab(np.stack((series.red, series.green, series.blue), axis=-1))
    return np.hypot(*(axis - _reference(series, axis) for axis in (lab[:, 1], lab[:, 2])))


def relative(series: FrameSeries, values: NDArray[np.floating]) -> NDArray[np.float64]:
    """`values` [F], such as the contrast, as multiples of what they were in the first seconds: [F]."""
    return values / max(_reference(series, values), LEAST_REFERENCE)


def _reference(series: FrameSeries, values: NDArray[np.floating]) -> float:
    """The median over the first seconds: a flash among them does not move it."""
    return float(np.median(values[series.time - series.time[0] < REFERENCE_SECONDS]))


def flicker_score(series: FrameSeries) -> float:
    """VBench's temporal flickering, 0 to 1, where 1 is a picture that never changes: (255 - MAE) / 255.

    MAE is the mean absolute difference of neighbouring frames (vbench/temporal_flickering.py). Differs: of luma and not
    of the three colours, and between frames sampled at 16 per second at most. VBench takes it of still scenes only, for
    it cannot tell motion from flicker; `brightness_flicker` can.
    """
    return 1.0 - float(series.difference[1:].mean())


def brightness_flicker(series: FrameSeries) -> NDArray[np.float64]:
    """Return how far the mean luma of each frame is off the line between its neighbours: [F], display values 0 to 1.

    Our own definition. Motion moves light about within a frame and changes its mean smoothly, and so do drifts and
    fades, which follow the line; what is left is brightness that goes up and down from frame to frame. Where the video
    has frames between the sampled ones, half of how far they swing counts if that is more. It does not see flicker that
    averages out over the picture. A cut adds half its step on either side.
    """
    off = series.swing / 2
    if len(series) > 2:
        before, now, after = series.time[:-2], series.time[1:-1], series.time[2:]
        share = (now - before) / (after - before)
        line = (1 - share) * series.luminance[:-2] + share * series.luminance[2:]
        off[1:-1] = np.maximum(off[1:-1], np.abs(series.luminance[1:-1] - line))
    return off


@dataclass(frozen=True, kw_only=True, slots=True)
class LongVideoMetrics:
    """Summary of a video of any length; None where it is too short to tell."""

    dynamic_degree: float | None
    """Share of 2-second windows that are dynamic, 0 to 1: `motion.dynamic_windows`."""
    mean_flow: float | None
    """Mean optical-flow magnitude in picture heights a second."""
    flow_variance: float | None
    """Mean variance of the flow in windows of 8 frames, (picture heights a second) squared: `motion.flow_variances`."""
    flow_spikes: tuple[float, ...]
    """Seconds at which the flow leaps: `motion.flow_spikes`."""
    flicker_score: float | None
    """VBench's temporal flickering, 1 for a picture that never changes: `flicker.flicker_score`."""
    brightness_flicker: float | None
    """Mean distance of a frame's luma from the line between its neighbours: `flicker.brightness_flicker`."""
    exposure_drift: float
    """Mean luma of the last second minus that of the first seconds, display values: `drift.exposure_drift`."""
    largest_exposure_drift: float
    """The same for the second that is furthest off; its sign says which way."""
    color_drift: float
    """CIELAB distance of the last second's mean colour from that of the first seconds: `drift.color_drift`."""
    largest_color_drift: float
    """The same for the second that is furthest off."""
    repetition: Repetition | None
    """The closest that the video comes to playing its beginning again, for RIFLEx's NoRepeat: `repetition`."""
    frozen_spans: tuple[tuple[float, float], ...]
    """Start and end in seconds of stretches in which the picture stands still: `motion.frozen_spans`."""
    frozen_share: float
    """Share of the video that they take up, 0 to 1."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not isinstance(value, (tuple, Repetition)) and not math.isfinite(value):
                raise ValueError(f"{field.name} is {value}; a figure that cannot be told is None.")
        for name in ("dynamic_degree", "flicker_score", "frozen_share"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; it is a share from 0 to 1.")

    @classmethod
    def of(cls, series: FrameSeries) -> LongVideoMetrics:
        """The figures of a video that was measured."""
        has_pairs = len(series) > 1
        variances = flow_variances(series)
        exposure, color = _by_second(series, exposure_drift(series)), _by_second(series, color_drift(series))
        frozen = frozen_spans(series)
        duration = float(series.time[-1] - series.time[0]) + 1 / series.rate
        return cls(
            dynamic_degree=float(dynamic_windows(series).mean()) if has_pairs else None,
            mean_flow=float(series.flow[1:].mean()) if has_pairs else None,
            flow_variance=float(variances.mean()) if len(variances) else None,
            flow_spikes=tuple(map(float, flow_spikes(series))),
            flicker_score=flicker_score(series) if has_pairs else None,
            brightness_flicker=float(brightness_flicker(series).mean()) if len(series) > 2 else None,
            exposure_drift=float(exposure[-1]),
            largest_exposure_drift=float(exposure[np.argmax(np.abs(exposure))]),
            color_drift=float(color[-1]),
            largest_color_drift=float(color.max()),
            repetition=closest_repetition(series),
            frozen_spans=frozen,
            frozen_share=min(1.0, sum(end - start for start, end in frozen) / duration),
        )


def _by_second(series: FrameSeries, values: np.ndarray) -> np.ndarray:
    """Means over whole seconds, counted back from the end so that the last one is whole: a frame alone is no drift."""
    from_end = (series.time[-1] - series.time).astype(int)
    return np.array([values[from_end == second].mean() for second in np.unique(from_end)[::-1]])
