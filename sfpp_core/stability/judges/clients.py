"""The client libraries of judges on the network: optional, and imported when such a judge is chosen."""

from __future__ import annotations

import importlib
from types import ModuleType

from ..rating import JudgeError


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
    """What the HTTP libraries below the clients raise when a connection fails; a client brings one or both."""
    modules = (_imported(name) for name in ("httpx2", "httpx"))
    return tuple(module.TransportError for module in modules if module)


def _imported(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
