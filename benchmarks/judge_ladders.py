"""Does the offline judge hold on videos of yours? `python -m benchmarks.judge_ladders VIDEO VIDEO...`, two or more.

The first seconds of each video, made small, are damaged in ten ways at five strengths, in memory or through a codec,
and rated. A line for each ladder gives Spearman's correlation of strength and loss of rating, at how many of the five
strengths the damage was named, and named at its time, and the ratings, that of the undamaged video first. Exits 1 if an
undamaged video rates below 4, or if a ladder correlates by less than 0.9 or is not named in time at its three greater
strengths.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.field_damages import DAMAGES, NUM_STRENGTHS, NUM_WAYS, Frames, Video
from sfpp_core.stability.measure import measure
from sfpp_core.stability.offline.judge import Event, assess, events_of
from sfpp_core.stability.score import MAX_RATING
from sfpp_core.video.reader import VideoReader
from sfpp_core.video.span import VideoSpan
from sfpp_core.video.writer import VideoWriter

LEAST_RATING, LEAST_CORRELATION, MUST_BE_NAMED = 4.0, 0.9, 3
ONSETS: Final = (0.22, 0.4, 0.58)
"""Of a video's length."""
CRFS: Final = (None, 18, 30)
"""Qualities of the codec; None: not through a codec."""
EARLY_SECONDS, LATE_SECONDS = 1.0, 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The judge's ratings of a whole video."""

    rating: float
    events: list[Event]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ladder:
    """A damage at its five strengths."""

    ratings: list[float]
    """That of the undamaged video first."""
    named: list[bool]
    timed: list[bool]

    @property
    def correlation(self) -> float:
        """The correlation of strength and loss of rating over the five strengths; 0 where all are rated alike."""
        losses = [-rating for rating in self.ratings[1:]]
        return float(spearmanr(range(NUM_STRENGTHS), losses).statistic) if len(set(losses)) > 1 else 0.0

    @property
    def holds(self) -> bool:
        """Return whether the judge can be relied on here."""
        return self.correlation >= LEAST_CORRELATION - 1e-9 and all(self.timed[-MUST_BE_NAMED:])


def read(path: Path, seconds: float, side: int) -> tuple[Frames, float]:
    """The first seconds of a video at 12.5 frames a second at most, its longer side at most `side` pixels."""
    with VideoReader(path) as reader:
        rate = min(float(reader.fps or 12.5), 12.5)
        height, width = reader.size
        scale = min(1.0, side / max(height, width))
        size = int(width * scale) // 2 * 2, int(height * scale) // 2 * 2
        pictures = reader.pictures(min_gap=1 / rate - 1e-3)
        kept = []
        for _, picture in pictures:
            kept.append(cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255)
            if len(kept) >= seconds * rate:
                break
    return np.stack(kept), rate


def judged(frames: Frames, fps: float, crf: int | None) -> Verdict:
    """The judge's rating of frames, as they are or after a codec."""
    images = torch.from_numpy(np.ascontiguousarray(frames))
    with tempfile.TemporaryDirectory() as folder:
        if crf is None:
            video = VideoSpan.from_images(images, fps)
        else:
            path, (height, width) = Path(folder) / "film.mp4", frames.shape[1:3]
            with VideoWriter(path, width, height, fps=Fraction(fps).limit_denominator(1001), crf=crf) as writer:
                writer.write(images)
            video = VideoSpan.open(path)
        assessment = assess(measure(video))
    return Verdict(rating=MAX_RATING * assessment.quality(), events=events_of(assessment))


def climb(name: str, kind: str, frames: Frames, fps: float, other: Frames) -> Ladder:
    """Damage a video at every strength; where, in which way and through which codec follows from the names."""
    draw = zlib.crc32(f"{name}|{kind}".encode())
    crf, way, onset = CRFS[draw % 3], draw // 3 % NUM_WAYS, ONSETS[draw // 12 % 3] * len(frames) / fps
    undamaged = judged(frames, fps, crf)
    found = []
    for strength in range(NUM_STRENGTHS):
        video = Video(frames=frames, fps=fps, onset=onset, strength=strength, way=way, seed=draw, other=other)
        found.append(judged(DAMAGES[kind](video), fps, crf))
    known = [event.start for event in undamaged.events if event.kind.value == kind]
    named = [any(event.kind.value == kind for event in verdict.events) for verdict in found]
    timed = [_is_timed(verdict, kind, onset, known) for verdict in found]
    return Ladder(ratings=[undamaged.rating, *(verdict.rating for verdict in found)], named=named, timed=timed)


def _is_timed(verdict: Verdict, kind: str, onset: float, known: list[float]) -> bool:
    """Return whether a damage is seen after its onset and not long before, the undamaged video's own share apart."""
    events = [event for event in verdict.events if event.kind.value == kind]
    new = [event for event in events if not any(abs(event.start - start) < LATE_SECONDS for start in known)]
    seen = any(event.end >= onset - LATE_SECONDS for event in events)
    return seen and all(event.start >= onset - EARLY_SECONDS for event in new)


def main(arguments: list[str] | None = None) -> int:
    """Damage, rate and print; the exit status says whether all ladders hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge_ladders", description=__doc__)
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO")
    parser.add_argument("--seconds", type=float, default=7.0, help="how much of each is taken")
    parser.add_argument("--side", type=int, default=176, help="the longer side they are made, pixels")
    options = parser.parse_args(arguments)
    if len(options.videos) < 2:
        parser.error("give two videos or more: each is also cut to the next one")
    cv2.setNumThreads(1)
    videos = {path.stem: read(path, options.seconds, options.side) for path in options.videos}
    names, failures = list(videos), 0
    for number, (name, (frames, fps)) in enumerate(videos.items()):
        height, width = frames.shape[1:3]
        following = videos[names[(number + 1) % len(names)]][0]
        other = np.stack([cv2.resize(frame, (width, height)) for frame in following])
        for kind in DAMAGES:
            ladder = climb(name, kind, frames, fps, other)
            holds = ladder.holds and ladder.ratings[0] >= LEAST_RATING
            failures += not holds
            ratings = " ".join(f"{rating:.2f}" for rating in ladder.ratings)
            counts = f"{sum(ladder.named)} named {sum(ladder.timed)} in time"
            print(f"{name:20.20} {kind:14} {ladder.correlation:5.2f}  {counts}  {ratings}{'' if holds else '  *'}")
    print(f"{failures} of {len(videos) * len(DAMAGES)} ladders do not hold")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
