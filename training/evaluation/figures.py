"""The figures of one video at one length. The core's metrics are defined in docs/stability.md.

Two spans are judged. The video up to the length, as the paper does ("visual stability at 50 s" is the score of the
whole 50-second video), which a late collapse lowers only by its share. And the last 5 s of it, which say how the video
is *by then*, whatever went before: a drift that comes to rest shows in both, one that goes on shows in the second
first. Everything at a length is computed of the frames up to it, so a video has the same figures at 50 s whether it
ends there or goes on for 20 minutes.

Axes: B video, F frame, H height, W width.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from sfpp_core.stability.measure import FrameSeries
from sfpp_core.stability.metrics import LongVideoMetrics, color_drift, exposure_drift, relative
from sfpp_core.stability.offline.judge import Damage, OfflineJudge
from sfpp_core.stability.score import visual_stability
from sfpp_core.video.span import VideoSpan
from sfpp_core.wan.config import FRAMES_PER_SECOND, WAN21

END_LATENT_FRAMES = 21
"""Of the window that ends a length: the teacher's horizon, 5 s, 81 frames."""
END_FRAMES = WAN21.pixel_frames(END_LATENT_FRAMES)
END_SECONDS = END_FRAMES / FRAMES_PER_SECOND


def latent_frames_of(seconds: float) -> int:
    """Fewest latent frames of a video of that length: 21 for 5 s."""
    return WAN21.latent_frames(round(seconds * FRAMES_PER_SECOND))


def frames_of(seconds: float) -> int:
    """Frames of a video of that length: those of its latent frames, 81 for 5 s."""
    return WAN21.pixel_frames(latent_frames_of(seconds))


class Ends:
    """Cuts the last `END_FRAMES` frames before each length out of videos that pass by; keeps no more than that."""

    def __init__(self, lengths: Sequence[float]) -> None:
        """lengths: in seconds, rising, none shorter than 5 s."""
        self._marks = [(length, frames_of(length)) for length in lengths]
        self._recent: Tensor | None = None
        self._seen = 0

    def see(self, piece: Tensor) -> Iterator[tuple[float, Tensor]]:
        """Take the next frames, B 3 F H W; give each length that they complete and its window, B 3 81 H W."""
        self._recent = piece if self._recent is None else torch.cat([self._recent, piece], dim=2)
        self._seen += piece.shape[2]
        while self._marks and self._marks[0][1] <= self._seen:
            length, frames = self._marks.pop(0)
            end = self._recent.shape[2] - (self._seen - frames)
            yield length, self._recent[:, :, end - END_FRAMES : end]
        self._recent = self._recent[:, :, -END_FRAMES:]


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoFigures:
    """The measures of the pixels, whatever the prompt; None where a video is too short or too still to tell."""

    stability: float
    """Visual Stability of the video up to the length by the offline judge, 0 to 100, one rating for the whole."""
    stability_end: float
    """The same of the last 5 s, which are compared with the video's first seconds."""
    dynamic_degree: float | None
    """Share of the video's 2-second windows that are dynamic, 0 to 1."""
    dynamic_degree_end: float | None
    """The same of the last 5 s."""
    flow: float | None
    """Mean optical flow of the last 5 s, picture heights a second."""
    flow_variance: float | None
    """Mean variance of the video's flow in windows of 8 frames."""
    repeats: float | None
    """1 if the video plays its beginning again, 0 if not; NoRepeat is 100 less the percentage of videos that do."""
    frozen: float
    """Share of the video in which the picture stands still, 0 to 1."""
    exposure_drift: float
    """Mean luma of the last second less that of the first seconds, display values."""
    hue_drift: float
    """CIELAB distance of the last second's mean colour from that of the first seconds, lightness left out."""
    contrast_drift: float
    """Deviation of luma in the last second as a multiple of that of the first seconds, less 1."""

    @classmethod
    def of(
        cls, video: VideoSpan, series: FrameSeries, length: float, prompt: str, unheeded: Collection[Damage] = ()
    ) -> VideoFigures:
        """Video and series: of the whole video, at least `length` seconds. unheeded: see OfflineJudge."""
        seconds = frames_of(length) / FRAMES_PER_SECOND
        upto = series.between(0.0, seconds - 0.5 / FRAMES_PER_SECOND)
        end = upto.between(seconds - END_SECONDS - 0.5 / FRAMES_PER_SECOND, seconds)
        judge = OfflineJudge(lambda _: upto, unheeded=unheeded)
        spans = video.segment(0.0, seconds), video.segment(max(0.0, seconds - END_SECONDS), seconds)
        scores = [visual_stability(span, prompt, judge, segment_seconds=None).score for span in spans]
        whole, last = LongVideoMetrics.of(upto), LongVideoMetrics.of(end)
        second = upto.time > upto.time[-1] - 1.0
        return cls(
            stability=scores[0],
            stability_end=scores[1],
            dynamic_degree=whole.dynamic_degree,
            dynamic_degree_end=last.dynamic_degree,
            flow=last.mean_flow,
            flow_variance=whole.flow_variance,
            repeats=float(whole.repetition.repeats) if whole.repetition else None,
            frozen=whole.frozen_share,
            exposure_drift=whole.exposure_drift,
            hue_drift=whole.color_drift,
            contrast_drift=float(relative(upto, upto.contrast)[second].mean()) - 1,
        )


def drift_curves(series: FrameSeries, edges: np.ndarray) -> dict[str, list[float]]:
    """Means between neighbouring times `edges` (seconds) of how far a video is off its first seconds, by quantity."""
    values = {
        "exposure": exposure_drift(series),
        "hue": color_drift(series),
        "contrast": relative(series, series.contrast) - 1,
    }
    bins = np.searchsorted(edges, series.time, side="right") - 1
    return {
        name: [round(float(drift[bins == index].mean()), 5) for index in range(len(edges) - 1)]
        for name, drift in values.items()
    }


def curve_edges(longest: float) -> np.ndarray:
    """Times in seconds between which drift is averaged: seconds at first, then steps of a tenth of what went before."""
    edges = [0.0, 1.0]
    while edges[-1] < longest:
        edges.append(min(longest, edges[-1] + max(1.0, round(edges[-1] / 10))))
    return np.array(edges)


CHANGE: Final = "change_since_shortest"
"""Of each video, since its shortest length."""
MULTIPLE: Final = "multiple_of_truth"
_DIFFERENCE: Final = "difference_from_"


def difference_from(baseline: str) -> str:
    """Videos less those of an arm, of the same prompt and seed."""
    return f"{_DIFFERENCE}{baseline}"


def baseline_of(kind: str) -> str | None:
    """The arm that differences are from; None for what is no difference."""
    return kind.removeprefix(_DIFFERENCE) if kind.startswith(_DIFFERENCE) else None


def is_signed(kind: str) -> bool:
    """Return whether figures are written with their sign, as 0 says that there is nothing between two videos."""
    return kind == CHANGE or baseline_of(kind) is not None
