"""Requests to a judge over the network: repeated if trouble may pass, limited in time, open to an interrupt.

API keys come from the environment, go to the server, and show up nowhere else. Client libraries are optional, and
imported when such a judge is chosen.
"""

from __future__ import annotations

import base64
import email.utils
import html
import importlib
import json
import logging
import math
import os
import queue
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from types import ModuleType
from typing import Final, TypeVar
from urllib.parse import quote, quote_plus, unquote

from ..score import JudgeError, Rating
from .rubric import UnusableAnswer, complaint, parse_answer

GEMINI_KEYS: Final = ("GOOGLE_API_KEY", "GEMINI_API_KEY")
"""In the order of Google's own client, which says so in a warning when both are set."""
OPENAI_KEY: Final = "OPENAI_API_KEY"
BASE_URLS: Final = ("SFPP_JUDGE_BASE_URL", "OPENAI_BASE_URL")
"""Addresses of an OpenAI-compatible server; the first that is set counts."""

HIDDEN: Final = "[key]"

# Anything shorter is a word that keyless servers are fed ("none", "EMPTY"), and hiding it would garble messages.
MIN_SECRET_LENGTH: Final = 6

# httpcore logs the headers of answers at DEBUG; a proxy or a gateway may put back into them what it was sent.
CLIENT_LOGGERS: Final = ("google_genai", "openai", "httpx", "httpx2", "httpcore", "httpcore2")


def first_set(names: tuple[str, ...]) -> str | None:
    """The value of the first of these environment variables that is set and not blank."""
    return next((value for name in names if (value := os.environ.get(name, "").strip())), None)


def first_key(names: tuple[str, ...]) -> str | None:
    """Return the same for a key. Raises JudgeError, which does not show it, if no HTTP header can hold it."""
    key = first_set(names)
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise JudgeError(
            f"the key in {' or '.join(names)} holds a blank, a line break or a character that no key has, so it cannot "
            "be sent. Copy the key again, without what stands around it."
        )
    return key


def scrub(text: str) -> str:
    """`text` with [key] in place of every key and password in the environment, however it is spelled."""
    for spelling in sorted({each for secret in _secrets() for each in _spellings(secret)}, key=len, reverse=True):
        text = text.replace(spelling, HIDDEN)
    return text


def guard_client_logs() -> None:
    """Scrub what the client libraries log, from now on, by whatever logger. Calling again does nothing."""
    make = logging.getLogRecordFactory()
    if not getattr(make, _SCRUBS, False):
        logging.setLogRecordFactory(_scrubbing(make))


_SCRUBS: Final = "sfpp_scrubs"
"""Attribute of a factory of records that does."""


def _scrubbing(make: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    def scrubbed(*args: object, **options: object) -> logging.LogRecord:
        record = make(*args, **options)
        if record.name.split(".")[0] in CLIENT_LOGGERS:
            _scrub_record(record)
        return record

    setattr(scrubbed, _SCRUBS, True)
    return scrubbed


def _secrets() -> set[str]:
    """Keys, and passwords of servers and proxies."""
    found = {os.environ.get(name, "").strip() for name in (*GEMINI_KEYS, OPENAI_KEY)}
    for name, address in os.environ.items():
        if name.upper().endswith(("_BASE_URL", "_PROXY")) and "@" in address:
            # Of an address that cannot be taken apart, all that stands before its server.
            user, _, password = address.rpartition("@")[0].rpartition("//")[2].partition(":")
            found |= {password, unquote(password), f"{user}:{password}", f"{unquote(user)}:{unquote(password)}"}
    return {text for text in found if len(text) >= MIN_SECRET_LENGTH}


def _spellings(secret: str) -> set[str]:
    """A secret as it stands in messages: as it is, in URLs, JSON, Python, HTML, and in base64, as in Basic auth."""
    in_urls = {quote(secret, safe=""), quote(secret), quote_plus(secret), quote(quote(secret, safe=""), safe="")}
    spelled = {secret, *in_urls, *map(_with_small_hex, in_urls), html.escape(secret), repr(secret)[1:-1]}
    spelled |= {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret.encode())[2:-1]}
    spelled |= {spelling.replace("/", "\\/") for spelling in tuple(spelled)}
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        spelled |= {encode(secret.encode()).decode(), encode(secret.encode()).decode().rstrip("=")}
    return spelled


def _with_small_hex(text: str) -> str:
    return re.sub(r"%[0-9A-F]{2}", lambda found: found[0].lower(), text)


def _scrub_record(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    clean = scrub(message)
    if clean != message:
        record.msg, record.args = clean, None
    if record.exc_info:
        record.exc_text = scrub(logging.Formatter().formatException(record.exc_info))
        record.exc_info = None
    return True


MAX_QUOTE: Final = 300
"""Characters of a server's own words in a message."""

# Request time-out and too many requests; of the statuses below 500 the only ones that another try can change.
PASSING_STATUSES: Final = (408, 429)


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """The reason why a request failed, in words that hold no key. The client's exception, which may, stays behind."""

    message: str
    may_pass: bool
    """Whether the same request may succeed later."""
    retry_after: float = 0.0
    """Seconds that the server asks to wait; 0 if it does not say."""

    @classmethod
    def of_status(cls, status: int, words: str, *, retry_after: float, keys: str, about_key: bool = False) -> Failure:
        """The failure that an HTTP status stands for.

        words: the server's; keys: the environment variables that hold the key; about_key: the server refused the key,
        even if the status does not say so.
        """
        about_key = about_key or status in (401, 403)
        # What servers say to 401 quotes the key, sometimes in a shortened form that nobody could scrub.
        said = "" if status == 401 or not words.strip() else ": " + shortened(words).rstrip(".")
        hint = f". Check the key in {keys}" if about_key else ""
        return cls(
            message=f"the server answered {status}{said}{hint}",
            may_pass=status in PASSING_STATUSES or status >= 500,
            retry_after=retry_after,
        )

    @classmethod
    def of_connection(cls, error: Exception) -> Failure:
        """The server was not reached, or the connection broke."""
        return cls(message=f"the server cannot be reached ({_words(error)})", may_pass=True)

    @classmethod
    def of_unreadable_answer(cls, error: Exception) -> Failure:
        """The server answered with something that its own client cannot read."""
        return cls(message=f"the server's answer cannot be read ({_words(error)})", may_pass=True)

    @classmethod
    def of_anything_else(cls, error: Exception) -> Failure:
        """The client library failed in a way that it does not document; not worth another try."""
        return cls(message=f"the client failed ({_words(error)})", may_pass=False)


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a Retry-After header asks to wait, as a number or as a date (RFC 9110, 10.2.3); 0 without one."""
    value = headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())


def shortened(words: str) -> str:
    """Somebody else's words for a message: on one line, without keys, not too long."""
    flat = " ".join(scrub(words).split())
    return flat if len(flat) <= MAX_QUOTE else flat[:MAX_QUOTE] + "..."


def _words(error: Exception) -> str:
    return shortened(f"{type(error).__name__}: {error}".rstrip(": "))


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
    """The time that a judge is waited for, and how often it is asked."""

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
        subject: the beginning of messages, "Gemini (model) could not rate video.mp4".
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
        """Return what `send` returns; sends again while failures may pass. An upload has all the time that is left.

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


def client_library(name: str, package: str) -> ModuleType:
    """A client library of the extra `judges`, imported now.

    Raises:
        JudgeError: it is not installed.
    """
    library = _imported(name)
    if library is None:
        raise JudgeError(
            f"this judge needs the package {package}, which is not installed: run `pip install {package}` with the "
            'Python of this program, or install the extra "judges" of this pack.'
        )
    return library


def transport_errors() -> tuple[type[Exception], ...]:
    """Return what the HTTP libraries below the clients raise when a connection fails; a client brings one or both."""
    modules = (_imported(name) for name in ("httpx2", "httpx"))
    return tuple(module.TransportError for module in modules if module)


def _imported(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
