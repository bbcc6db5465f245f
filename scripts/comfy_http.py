"""Requests to a ComfyUI server; whatever goes wrong with one is a `ComfyError` that says where."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import requests

from scripts.comfy_address import ServerAddress
from scripts.comfy_errors import ServerUnreachable, StrangeAnswer, Unsendable, is_passing

_CONNECT_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 60.0


class HttpConnection:
    """Connections to one server, kept open between requests."""

    def __init__(self, address: ServerAddress) -> None:
        """Remember the address; nothing is sent yet."""
        self.url = address.url
        self._authorization = address.authorization
        self._session = requests.Session()
        self._session.trust_env = not address.is_loopback
        if address.authorization is not None:
            self._session.auth = self._signed

    def request(self, method: str, path: str, *, accept: Collection[int] = (), **arguments: Any) -> requests.Response:
        """Send a request; raises for a status that is an error unless `accept` has it.

        Raises:
            ServerUnreachable: nobody answers, or only to say that it is not possible now.
            StrangeAnswer: the status is another error.
            Unsendable: what is to be sent cannot be written as JSON.
        """
        timeouts = (_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S)
        try:
            response = self._session.request(method, self.url + path, timeout=timeouts, **arguments)
        except requests.exceptions.InvalidJSONError as error:
            raise Unsendable(f"{method} {path}: what is to be sent cannot be written as JSON: {error}") from error
        except requests.RequestException as error:
            raise ServerUnreachable(f"no answer from ComfyUI at {self.url}: {error}") from error
        if response.ok or response.status_code in accept:
            return response
        status = f"{response.status_code} {response.reason}"
        if is_passing(response.status_code):
            raise ServerUnreachable(f"no answer from ComfyUI at {self.url} to {method} {path}: {status}")
        raise StrangeAnswer(f"{method} {path}: {self.url} answers {status}: {response.text[:500]}")

    def get_json(self, path: str) -> Any:
        """GET a path and decode its JSON. Raises as `request`, and StrangeAnswer if it is none."""
        response = self.request("GET", path)
        try:
            return response.json()
        except requests.JSONDecodeError as error:
            raise StrangeAnswer(f"GET {path}: the answer of {self.url} is no JSON: {response.text[:500]}") from error

    def get_object(self, path: str) -> dict[str, Any]:
        """GET a path that holds a JSON object. Raises as `get_json`, and StrangeAnswer if it holds something else."""
        answer = self.get_json(path)
        if not isinstance(answer, dict):
            raise StrangeAnswer(f"GET {path}: the answer of {self.url} is not ComfyUI's: {str(answer)[:500]}")
        return answer

    def _signed(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Have a request say who we are: `requests` itself knows no names beyond Latin-1."""
        request.headers["Authorization"] = self._authorization
        return request


def json_object(response: requests.Response) -> dict[str, Any]:
    """The JSON object in a response; empty if it holds something else, such as a proxy's page."""
    try:
        answer = response.json()
    except requests.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}
