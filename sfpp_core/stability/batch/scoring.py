"""One video of many: rated unless it has been, plotted if wanted, and whatever goes wrong put into words."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...video.reader import VideoFileError
from ..footage import Footage
from ..ledger import LedgerError, RatingLedger
from ..rating import Judge, JudgeError
from ..score import VisualStability, visual_stability
from .results import Question, VideoResult
from .workers import parent_is_alive

logger = logging.getLogger(__name__)

# What is wrong with a video or a judge, and says so in its message. Anything else is a fault of this program.
EXPECTED: Final = (OSError, VideoFileError, JudgeError, LedgerError)

SECONDS_BETWEEN_MESSAGES: Final = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringTask:
    """A video to be rated."""

    question: Question
    known: VideoResult | None = None
    """Its ratings from an earlier run, which hold if the file's content is still the same."""
    plot: Path | None = None
    """A PNG file to be drawn; its folders are made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """What came out."""

    result: VideoResult
    is_new: bool
    """False if it is what was known."""


class Scorer:
    """Rates videos with one judge.

    Args:
        judge: of the name that the questions ask for.
        ledger: where ratings are looked up and kept; None: nowhere.
    """

    def __init__(self, judge: Judge, ledger: RatingLedger | None) -> None:
        self._judge = judge
        self._ledger = ledger

    def __call__(self, task: ScoringTask) -> Scored:
        """Rate a video. Raises nothing: a failure is a result too."""
        path = task.question.path
        try:
            return self._score(task, Footage.open(path))
        except EXPECTED as error:
            message = str(error)
        except Exception as error:
            logger.exception("%s", path)
            message = f"{type(error).__name__}: {error}"
        return Scored(result=VideoResult(question=task.question, error=message), is_new=True)

    def _score(self, task: ScoringTask, video: Footage) -> Scored:
        fingerprint, known = video.fingerprint(), task.known
        if known is not None and known.fingerprint == fingerprint and known.stability is not None:
            stability, is_new = known.stability, False
        else:
            stability, is_new = self._rate(task.question, video), True
        result = VideoResult(question=task.question, fingerprint=fingerprint, stability=stability)
        if task.plot is not None:
            # Takes matplotlib and OpenCV, a second to load: here, so that only those wait who want a plot.
            from .plot_file import draw

            draw(video, result, self._judge, task.plot)
        return Scored(result=result, is_new=is_new)

    def _rate(self, question: Question, video: Footage) -> VisualStability:
        claim = self._ledger.claim(self._judge.name, video, question.prompt) if self._ledger else nullcontext()
        with claim:
            return visual_stability(
                video,
                question.prompt,
                self._judge,
                segment_seconds=question.segment_seconds,
                store=self._ledger,
                on_segment=_Progress(question.path),
            )


class _Progress:
    """Tells of a video that takes long, and stops a worker that nobody waits for between two ratings."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._told = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if not parent_is_alive():
            raise SystemExit(1)
        if done < total and time.monotonic() - self._told > SECONDS_BETWEEN_MESSAGES:
            logger.info("%s: %d of %d segments", self._path, done, total)
            self._told = time.monotonic()
