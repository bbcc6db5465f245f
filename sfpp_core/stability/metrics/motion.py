"""How much a video moves, how evenly, and where it stands still.

All of it is read from the optical flow between neighbouring sampled frames that motion_field.py measures. The
benchmarks named below take theirs from RAFT, a network whose weights would have to be downloaded: figures of the two
must not be mixed in one table.

Axes: F frames, W windows. The first frame has none before it; its flow counts for nothing here.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..measurement.series import FrameSeries, true_runs
from ..score import segment_spans

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
    """Whether each window of 2 s is dynamic: [W].

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

    Says nothing about fault: a film that is still on purpose is frozen too.
    """
    same = (series.difference < FROZEN_DIFFERENCE) & (series.flow_top < FROZEN_SPEED)
    same[0] = False
    ends = np.append(series.time[1:], series.time[-1] + 1 / series.rate)
    spans = [(float(series.time[first - 1]), float(ends[last - 1])) for first, last in true_runs(same)]
    return tuple((start, end) for start, end in spans if end - start >= FROZEN_SECONDS)
