"""Requests to a ComfyUI server; whatever goes wrong with one is a `ComfyError` that says where."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit, urlunsplit

import requests

from scripts.comfy_errors import ComfyError, ServerUnreachable
from scripts.comfy_events import LOOPBACK_HOSTS

_CONNECT_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 60.0

# What a proxy answers in place of a server that is away.
_NOBODY_BEHIND_THE_PROXY = frozenset({502, 503, 504})


class HttpConnection:
    """Connections to one server, kept open between requests."""

    def __init__(self, url: str) -> None:
        """Remember the address; nothing is sent yet. Raises ValueError if it is none."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url is {url!r}; give the server's address, such as http://127.0.0.1:8188")
        self.url = url.rstrip("/")
        self.name = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
        """The address as messages have it: without the name and password that it may carry."""
        self._session = requests.Session()
        self._session.trust_env = parts.hostname not in LOOPBACK_HOSTS

    def request(self, method: str, path: str, *, accept_errors: bool = False, **arguments: Any) -> requests.Response:
        """Send a request; raises for a status that is an error unless `accept_errors`.

        Raises:
            ServerUnreachable: nobody answers, or only a proxy does.
            ComfyError: the answer is an error, or what is to be sent cannot be.
        """
        timeouts = (_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S)
        try:
            response = self._session.request(method, self.url + path, timeout=timeouts, **arguments)
        except requests.exceptions.InvalidJSONError as error:
            raise ComfyError(f"{method} {path}: what is to be sent cannot be written as JSON: {error}") from error
        except requests.RequestException as error:
            raise ServerUnreachable(f"no answer from ComfyUI at {self.name}: {error}") from error
        if response.status_code in _NOBODY_BEHIND_THE_PROXY:
            raise ServerUnreachable(f"no answer from ComfyUI at {self.name}: {response.status_code} {response.reason}")
        if not response.ok and not accept_errors:
            raise ComfyError(f"{method} {path}: {response.status_code} {response.reason}: {response.text[:500]}")
        return response

    def get_json(self, path: str) -> Any:
        """GET a path and decode its JSON."""
        response = self.request("GET", path)
        try:
            return response.json()
        except requests.JSONDecodeError as error:
            raise ComfyError(f"GET {path}: the answer of {self.name} is no JSON: {response.text[:500]}") from error


def json_object(response: requests.Response) -> dict[str, Any]:
    """The JSON object in a response; empty if it holds something else, such as a proxy's page."""
    try:
        answer = response.json()
    except requests.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}
