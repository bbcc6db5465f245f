"""Why a request to a judge failed, in words that can be shown."""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Final

from .keys import scrub

MAX_QUOTE: Final = 300
"""Characters of a server's own words in a message."""

# Request time-out and too many requests; of the statuses below 500 the only ones that another try can change.
PASSING_STATUSES: Final = (408, 429)


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a request failed, in words that hold no key. The client's exception, which may, stays behind."""

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
