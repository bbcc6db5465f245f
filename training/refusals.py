"""Refusing what somebody has written, in a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says which key, what it holds and what to write instead."""


def require(condition: bool, message: str) -> None:
    """Raise ConfigError(message) unless the condition holds."""
    if not condition:
        raise ConfigError(message)


@contextmanager
def usable(named: str, *, instead: str) -> Iterator[None]:
    """Raise ConfigError if a file of our own that is opened inside is not there, is damaged or holds something else.

    named: what names the file, and the file. instead: what to do, for the rest of the sentence.
    """
    try:
        yield
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ConfigError(f"{named} cannot be used ({error}); {instead}.") from error
