"""Requests to a judge over the network: repeated if trouble may pass, limited in time, and open to an interrupt."""

from __future__ import annotations

import math
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from ..rating import JudgeError, Rating
from .failures import Failure, shortened
from .keys import scrub
from .rubric import UnusableAnswer, complaint, parse_answer

T = TypeVar("T")

MAX_BACKOFF_SECONDS: Final = 60.0
CLEANUP_SECONDS: Final = 10.0
TICK_SECONDS: Final = 0.1
"""How soon an interrupt is noticed."""

_jitter = random.SystemRandom()


def never() -> None:
    """The `abort` of a judge that nobody interrupts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long a judge is waited for, and how often it is asked."""

    request_seconds: float = 300.0
    """A single request may take this long; models that think before they answer take minutes for a long video."""
    total_seconds: float = 1200.0
    """A rating may take this long, with every upload, repetition and wait."""
    attempts: int = 6
    """How often a request is sent at most while the server is busy, fails or cannot be reached."""
    backoff_seconds: float = 2.0
    """The wait after the first failure; doubles with each, up to a minute, less a random part of up to a half."""
    poll_seconds: float = 2.0
    """The wait between two looks at whether an uploaded file is ready."""
    asks: int = 3
    """How often the question is put at most while the answers are no ratings."""

    def __post_init__(self) -> None:
        for name in ("request_seconds", "total_seconds", "backoff_seconds", "poll_seconds"):
            seconds = getattr(self, name)
            if not 0 < seconds < math.inf:
                raise ValueError(f"{name} is {seconds}; it must be a time above 0 in seconds.")
        for name in ("attempts", "asks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")


class Line:
    """The connection to a judge while it makes one rating.

    Every request runs in a thread of its own, because a socket cannot be interrupted: when time is up or `abort`
    raises, the thread is left to end by its client's own time-out. What it raises is turned into words there, so that
    no exception of a client library is ever in the chain of ours.

    Args:
        subject: the beginning of messages, "Gemini (model) could not rate film.mp4".
        diagnose: puts a client's exception into words; must not raise.
        abort: called about ten times a second while waiting; whatever it raises ends the rating.
    """

    def __init__(
        self, subject: str, patience: Patience, diagnose: Callable[[Exception], Failure], abort: Callable[[], None]
    ) -> None:
        self._subject = subject
        self._patience = patience
        self._diagnose = diagnose
        self._abort = abort
        self._deadline = time.monotonic() + patience.total_seconds

    def request(self, send: Callable[[], T], *, is_upload: bool = False) -> T:
        """What `send` returns; sends again while failures may pass. An upload has all the time that is left.

        Raises:
            JudgeError: it did not succeed in the attempts and the time that there are.
        """
        for attempt in range(self._patience.attempts):
            seconds = self._left() if is_upload else min(self._patience.request_seconds, self._left())
            outcome = self._run(send, seconds, self._abort)
            if not isinstance(outcome, Failure):
                return outcome
            if not outcome.may_pass or attempt + 1 == self._patience.attempts:
                break
            self._back_off(attempt, outcome)
        tries = f" ({attempt + 1} attempts)" if attempt else ""
        raise self.error(f"{outcome.message}{tries}")

    def rating(self, ask: Callable[[str], str], question: str) -> Rating:
        """The rating in what `ask` answers to `question`, which is put again while answers are no ratings.

        Raises:
            JudgeError: no answer was a rating.
        """
        added = ""
        for _ in range(self._patience.asks):
            try:
                return parse_answer(scrub(ask(question + added)))
            except UnusableAnswer as error:
                reason = str(error)
            added = complaint(reason)
        raise self.error(f"the answers cannot be used ({self._patience.asks} asked for). The last one: {reason}")

    def wait(self, seconds: float) -> None:
        """Sleep, but not past the end of the time for the rating, and not through an interrupt."""
        end = time.monotonic() + min(seconds, self._left())
        while (left := end - time.monotonic()) > 0:
            self._abort()
            time.sleep(min(TICK_SECONDS, left))
        self._abort()

    def clean_up(self, send: Callable[[], object]) -> Failure | None:
        """Send a last request, once and briefly, even when time is up or the rating was interrupted."""
        outcome = self._run(send, CLEANUP_SECONDS, never)
        return outcome if isinstance(outcome, Failure) else None

    def error(self, reason: str) -> JudgeError:
        """The exception to raise: who could not rate what, and why."""
        return JudgeError(f"{self._subject}: {scrub(reason).rstrip('.')}.")

    def refused(self, reason: str) -> JudgeError:
        """The exception to raise when the judge will not look at this video, or not say what it saw."""
        return self.error(f"it refused ({shortened(reason)}). Take another judge for it, e.g. the offline judge")

    def _back_off(self, attempt: int, failure: Failure) -> None:
        backoff = min(MAX_BACKOFF_SECONDS, self._patience.backoff_seconds * 2**attempt)
        delay = backoff * _jitter.uniform(0.5, 1)
        if failure.retry_after:
            # The spread keeps many that were told the same from coming back at once.
            delay = max(delay, failure.retry_after + _jitter.uniform(0, self._patience.backoff_seconds / 2))
        if delay > self._left():
            raise self.error(f"{failure.message}; waiting {delay:.0f} s more would take too long. Try again later")
        self.wait(delay)

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self.error(f"it is not done after {self._patience.total_seconds:g} s")
        return left

    def _run(self, send: Callable[[], T], seconds: float, abort: Callable[[], None]) -> T | Failure:
        outcomes: queue.SimpleQueue[T | Failure] = queue.SimpleQueue()

        def work() -> None:
            try:
                outcome = send()
            except Exception as error:
                outcome = self._diagnose(error)
            outcomes.put(outcome)

        threading.Thread(target=work, name="sfpp-judge", daemon=True).start()
        end = time.monotonic() + seconds
        while True:
            abort()
            left = end - time.monotonic()
            try:
                return outcomes.get(timeout=min(TICK_SECONDS, max(left, 0.0)))
            except queue.Empty:
                if left <= 0:
                    return Failure(message=f"no answer came within {seconds:.3g} s", may_pass=True)
