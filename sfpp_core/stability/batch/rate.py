"""Many videos, rated side by side in processes.

Each is rated unless it has been, plotted if wanted, and whatever goes wrong with it is put into words. A process that
dies takes no other task with it.
"""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Final, Generic, TypeVar

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from ...files import replacing
from ...video.reader import VideoFileError
from ...video.span import VideoSpan
from ..ledger import LedgerError, RatingLedger
from ..offline.judge import OfflineJudge, events_of
from ..plot import plot_report
from ..report import StabilityReport
from ..score import Judge, JudgeError, VisualStability, visual_stability
from .results import Question, ResultFile, VideoResult

logger = logging.getLogger(__name__)

Task = TypeVar("Task")
Result = TypeVar("Result")

_SPAWN: SpawnContext = multiprocessing.get_context("spawn")


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerDied:
    """The outcome of a task whose worker's process ended in the middle of it."""

    exit_code: int
    """As `multiprocessing.Process.exitcode`: minus the signal's number if a signal ended it."""

    def __str__(self) -> str:
        if self.exit_code >= 0:
            return f"the process that rated it ended with exit status {self.exit_code}; see its output."
        name = signal.Signals(-self.exit_code).name
        hint = "; the machine may have run out of memory, try fewer jobs" if name == "SIGKILL" else ""
        return f"the process that rated it was ended by {name}{hint}."


def run_in_processes(
    make_work: Callable[[], Callable[[Task], Result]], tasks: Sequence[Task], num_processes: int
) -> Iterator[tuple[Task, Result | WorkerDied]]:
    """Yield each task with its result, as they are finished. A worker that dies is replaced.

    Closing the iterator, or an interrupt, ends all workers at once. If this process is killed, each worker ends its
    task and leaves.

    concurrent.futures does the same for work that never crashes: there one dead process fails every task that is
    running or waiting, and workers outlive a parent that was killed.

    make_work: called once in each worker, for what takes long to load; it and the tasks are pickled.
    """
    waiting = deque(tasks)
    running: dict[Connection, _Worker[Task, Result]] = {}
    try:
        for _ in range(min(num_processes, len(waiting))):
            worker = _Worker(make_work, waiting.popleft())
            running[worker.connection] = worker
        while running:
            for connection in wait(list(running)):
                worker = running.pop(connection)
                task, result = worker.task, worker.result()
                if not waiting or isinstance(result, WorkerDied):
                    worker.end()
                if waiting and isinstance(result, WorkerDied):
                    worker = _Worker(make_work, waiting.popleft())
                    running[worker.connection] = worker
                elif waiting:
                    worker.give(waiting.popleft())
                    running[worker.connection] = worker
                yield task, result
    finally:
        for worker in running.values():
            worker.end()


def parent_is_alive() -> bool:
    """Return whether whoever wants the results of this worker is still there; True in a process that is no worker."""
    parent = multiprocessing.parent_process()
    return parent is None or parent.is_alive()


class _Worker(Generic[Task, Result]):
    """A process and the task that it is at."""

    def __init__(self, make_work: Callable[[], Callable[[Task], Result]], task: Task) -> None:
        self.task = task
        self.connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_serve, args=(make_work, theirs), daemon=True)
        with _interrupts_held():
            self._process.start()
        # Kept open here, it would hide that the worker is gone.
        theirs.close()
        self.give(task)

    def give(self, task: Task) -> None:
        """Begin a task. If the worker is dead already, `result` says so."""
        self.task = task
        try:
            self.connection.send(task)
        except BrokenPipeError:
            pass

    def result(self) -> Result | WorkerDied:
        """Wait for the result of the task."""
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            return WorkerDied(exit_code=self._process.exitcode or 0)

    def end(self) -> None:
        """End the process whatever it is doing."""
        self._process.terminate()
        self._process.join()
        self.connection.close()


def _serve(make_work: Callable[[], Callable[[Task], Result]], connection: Connection) -> None:
    """The life of a worker: until its parent closes the connection or dies."""
    if os.name == "nt":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    work = make_work()
    while True:
        try:
            task = connection.recv()
        except (EOFError, ConnectionError):
            return
        result = work(task)
        try:
            connection.send(result)
        except ConnectionError:
            return


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes that start in the block never see Ctrl-C, which a terminal sends to all: their parent ends them.

    Held here and not in the worker, whose first second goes into imports. An interrupt meanwhile comes afterwards.
    """
    if os.name == "nt":
        yield
        return
    # Python's own helper process is made by the first start, and lets interrupts through again while it is (3.11).
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
    """The outcome of a task."""

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
            return self._score(task, VideoSpan.open(path))
        except EXPECTED as error:
            message = str(error)
        except Exception as error:
            logger.exception("%s", path)
            message = f"{type(error).__name__}: {error}"
        return Scored(result=VideoResult(question=task.question, error=message), is_new=True)

    def _score(self, task: ScoringTask, video: VideoSpan) -> Scored:
        fingerprint, known = video.fingerprint(), task.known
        if known is not None and known.fingerprint == fingerprint and known.stability is not None:
            stability, is_new = known.stability, False
        else:
            stability, is_new = self._rate(task.question, video), True
        result = VideoResult(question=task.question, fingerprint=fingerprint, stability=stability)
        if task.plot is not None:
            # Takes matplotlib and OpenCV, a second to load: here, so that only those wait who want a plot.

            draw(video, result, self._judge, task.plot)
        return Scored(result=result, is_new=is_new)

    def _rate(self, question: Question, video: VideoSpan) -> VisualStability:
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


RESULT_KEY: Final = "sfpp-result"
"""The text entry of a plot's file that says of which result it is."""


def draw(video: VideoSpan, result: VideoResult, judge: Judge, path: Path) -> None:
    """Plot a result that has ratings, unless the file already is its plot. Nothing is rated again.

    judge: if it has measured the video, that is not done again either.

    Raises:
        OSError: the file or its folders cannot be made.
        VideoFileError: the video is damaged or cut short.
    """
    drawn_result = hashlib.sha256(result.to_json().encode()).hexdigest()
    if _drawn_result(path) == drawn_result:
        return
    offline = judge if isinstance(judge, OfflineJudge) else OfflineJudge()
    assessment = offline.assessment(video)
    report = StabilityReport.of(video.name, result.stability, assessment.series, events_of(assessment))
    info = PngInfo()
    info.add_text(RESULT_KEY, drawn_result)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        plot_report(report).save(temporary, pnginfo=info)


def _drawn_result(path: Path) -> str | None:
    """Return the result that the file is the plot of; None if it is none, or not there."""
    try:
        with Image.open(path) as image:
            return image.info.get(RESULT_KEY)
    except (FileNotFoundError, UnidentifiedImageError):
        return None
