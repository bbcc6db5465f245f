"""Many videos, rated side by side in processes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from ..ledger import RatingLedger
from ..rating import Judge
from .results import Question, ResultFile, VideoResult
from .scoring import Scored, Scorer, ScoringTask
from .workers import WorkerDied, run_in_processes


def rate_videos(
    prompts: Mapping[Path, str],
    make_judge: Callable[[], Judge],
    *,
    segment_seconds: float | None,
    num_processes: int,
    ledger: RatingLedger | None = None,
    results: ResultFile | None = None,
    plots: Mapping[Path, Path] | None = None,
) -> Iterator[VideoResult]:
    """Rate videos and yield their results as they are finished. None that fails stops another.

    prompts: the videos, with the prompt of each.
    make_judge: pickled; called once in each process.
    ledger: ratings in it are not asked for again, whatever becomes of this process.
    results: videos that it has the ratings of are not rated again unless their content changed; new results go there.
    plots: the PNG file to draw for each video.

    Raises:
        JudgeError, ValueError: `make_judge` does; it is called here once, before anything is rated.
        OSError: a result cannot be written.
    """
    judge = make_judge().name
    tasks = []
    for path, prompt in prompts.items():
        question = Question(path=str(path), prompt=prompt, judge=judge, segment_seconds=segment_seconds)
        known = results.answer(question) if results else None
        tasks.append(ScoringTask(question=question, known=known, plot=plots[path] if plots else None))
    for task, scored in run_in_processes(partial(_make_scorer, make_judge, ledger), tasks, num_processes):
        if isinstance(scored, WorkerDied):
            scored = Scored(result=VideoResult(question=task.question, error=str(scored)), is_new=True)
        if results and scored.is_new:
            results.append(scored.result)
        yield scored.result


def log_to_stderr() -> None:
    """Show what this package has to say, and only warnings of the libraries below it."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    logging.getLogger(__name__.split(".")[0]).setLevel(logging.INFO)


def _make_scorer(make_judge: Callable[[], Judge], ledger: RatingLedger | None) -> Scorer:
    log_to_stderr()
    return Scorer(make_judge(), ledger)
