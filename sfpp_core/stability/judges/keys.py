"""API keys: they come from the environment, go to the server, and show up nowhere else."""

from __future__ import annotations

import logging
import os
from typing import Final
from urllib.parse import quote, urlsplit

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


def scrub(text: str) -> str:
    """`text` with [key] in place of every key in the environment, as it is and as it stands in a URL."""
    for secret in _secrets():
        text = text.replace(secret, HIDDEN).replace(quote(secret, safe=""), HIDDEN)
    return text


def guard_client_logs() -> None:
    """Scrub what the client libraries log, from now on; call it when they are imported. Calling again does nothing."""
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] in CLIENT_LOGGERS:
            logging.getLogger(name).addFilter(_scrub_record)


def _secrets() -> list[str]:
    """Longest first, so that a key that contains another goes as a whole."""
    keys = [os.environ.get(name, "").strip() for name in (*GEMINI_KEYS, OPENAI_KEY)]
    passwords = [urlsplit(os.environ.get(name, "")).password or "" for name in BASE_URLS]
    return sorted((text for text in keys + passwords if len(text) >= MIN_SECRET_LENGTH), key=len, reverse=True)


def _scrub_record(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    clean = scrub(message)
    if clean != message:
        record.msg, record.args = clean, None
    if record.exc_info:
        record.exc_text = scrub(logging.Formatter().formatException(record.exc_info))
        record.exc_info = None
    return True
