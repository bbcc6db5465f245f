"""Refusing what somebody has written, in a sentence."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says which key, what it holds and what to write instead."""


def require(condition: bool, message: str) -> None:
    """Raise ConfigError(message) unless the condition holds."""
    if not condition:
        raise ConfigError(message)
