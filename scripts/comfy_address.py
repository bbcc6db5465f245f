"""Where a ComfyUI server is, and as whom to speak to it."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerAddress:
    """A server's address, taken apart."""

    url: str
    """Without a slash at the end and without the name and password that it came with: messages and records show it."""
    host: str
    authorization: str | None = field(repr=False)
    """The Authorization header for every request; None if the address came without a name."""

    @classmethod
    def parse(cls, url: str) -> ServerAddress:
        """Take an address apart. Raises ValueError if it is none, without telling the secrets in it."""
        try:
            parts = urlsplit(url)
            is_address = _is_address(parts)
        except ValueError:  # a bracket that is not closed, a port that is none, a name that no host can have
            is_address = False
        if not is_address:
            raise ValueError(
                f"url is {_without_secrets(url)!r}; give the server's address with nothing behind it, such as "
                "http://127.0.0.1:8188 or https://NAME:PASSWORD@host/path"
            )
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=parts.path.rstrip("/"))
        return cls(url=bare.geturl(), host=parts.hostname, authorization=_authorization(parts))

    @property
    def is_loopback(self) -> bool:
        """Whether this is our own machine: no proxy can reach it for us, whatever the environment names."""
        return self.host in _LOOPBACK_HOSTS


def _is_address(parts: SplitResult) -> bool:
    # A query would end up in the middle of every request's path. Port and name are looked at only when asked for.
    has_host = bool((parts.hostname or "").encode("idna")) and parts.port != 0
    return parts.scheme in ("http", "https") and has_host and not parts.query and not parts.fragment


def _authorization(parts: SplitResult) -> str | None:
    if parts.username is None:
        return None
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(login.encode()).decode()}"


def _without_secrets(url: str) -> str:
    """What may be shown of something that was to be an address: no name and password, and of a query only that."""
    return re.sub(r"([?#]).+", r"\1...", re.sub(r"^([a-z]+://)?.*@", r"\1", url))
