"""Requests to a ComfyUI server; whatever goes wrong with one is a `ComfyError` that says where."""

from __future__ import annotations

import base64
import json
import logging
import re
import struct
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import requests
import websocket

from sfpp_client.errors import ComfyError, ServerUnreachable, StrangeAnswer, Unsendable, is_passing

logger = logging.getLogger(__name__)

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
        """Return whether this is our own machine: no proxy can reach it for us, whatever the environment names."""
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
    """Return what may be shown of a would-be address: no name and password, and of a query only that."""
    return re.sub(r"([?#]).+", r"\1...", re.sub(r"^([a-z]+://)?.*@", r"\1", url))


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


_PREVIEW = 1
_PREVIEW_WITH_METADATA = 4
_IMAGE_TYPES = {1: "image/jpeg", 2: "image/png"}

# How long a silent websocket is trusted before the history is asked. A run's end is announced at once all the same.
_SILENCE_S = 1.0

_NOBODY_THERE = (
    OSError,
    websocket.WebSocketAddressException,
    websocket.WebSocketConnectionClosedException,
    websocket.WebSocketProxyException,
    websocket.WebSocketTimeoutException,
)

# What else a handshake raises: somebody has answered it, but not as ComfyUI does. The last two come out of older
# versions of the library when they are redirected to a login page, or when the port speaks something else.
_SOMEBODY_ELSE = (websocket.WebSocketException, ValueError, LookupError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """A node's progress bar moved to `value` of `maximum`."""

    node_id: str
    value: float
    maximum: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """A node showed a picture of its work so far."""

    node_id: str | None
    """None from a server that does not say."""
    mime_type: str
    image: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """Any other message about a run: execution_start, execution_cached, executing, executed, ..."""

    kind: str
    data: Mapping[str, Any]

    def ends_run(self) -> bool:
        """Return whether the run is over with this message, well or not."""
        if self.kind == "executing":
            return self.data.get("node") is None
        return self.kind in ("execution_success", "execution_error", "execution_interrupted")


@dataclass(frozen=True, kw_only=True, slots=True)
class Queued:
    """The run is in the server's queue, and its place there is new or has changed."""

    prompt_id: str
    num_ahead: int
    """Runs that come first; 0 if this one is running."""


Event = Progress | Preview | Message | Queued
OnEvent = Callable[[Event], None]


class EventSocket:
    """The websocket of one client id, as an endless supply of events; connects again when it is cut off."""

    def __init__(self, address: ServerAddress, client_id: str) -> None:
        self._url = address.url
        # "http" becomes "ws", and so "https" becomes "wss".
        self._address = f"ws{address.url.removeprefix('http')}/ws?clientId={client_id}"
        self._header = None if address.authorization is None else [f"Authorization: {address.authorization}"]
        self._no_proxy = [address.host] if address.is_loopback else None
        self._socket: websocket.WebSocket | None = None
        self.was_cut = False
        """Whether the connection was lost since the run was last known to the server: only then can that have been
        restarted."""

    def __enter__(self) -> EventSocket:
        """Connect. Raises ServerUnreachable, or StrangeAnswer if who answers is not ComfyUI."""
        try:
            self._connect()
        except ComfyError:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def note_that_run_is_known(self) -> None:
        """The server has just named the run among its own: what cut us off before this connection was no restart."""
        if self._socket is not None:
            self.was_cut = False

    def next(self, prompt_id: str) -> Event | None:
        """The next event of a run; None after a moment of silence or a lost connection: look at the history then."""
        until = time.monotonic() + _SILENCE_S
        while time.monotonic() < until:
            frame = self._receive()
            if frame is None:
                return None
            event = decode(frame, prompt_id)
            if event is not None:
                return event
        return None

    def _receive(self) -> str | bytes | None:
        try:
            if self._socket is None:
                self._connect()
            return self._socket.recv()
        except websocket.WebSocketTimeoutException:
            return None
        except (ComfyError, OSError, websocket.WebSocketException) as error:
            if self._socket is not None:  # once for each loss, not for each try to connect again
                logger.warning("lost the websocket to %s (%s); connecting again", self._url, error)
            self.was_cut = True
            self._close()
            time.sleep(_SILENCE_S)
            return None

    def _connect(self) -> None:
        """Raises as `__enter__`; the socket may be there all the same, and is to be closed then."""
        try:
            self._socket = websocket.create_connection(
                self._address, timeout=_CONNECT_TIMEOUT_S, http_no_proxy=self._no_proxy, header=self._header
            )
            self._socket.settimeout(_SILENCE_S)
            # Has to be the first message. Servers that know it say with each preview which node it comes from.
            flags = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
            self._socket.send(json.dumps(flags))
        except _NOBODY_THERE as error:
            raise ServerUnreachable(f"no answer from ComfyUI at {self._url}: {error}") from error
        except _SOMEBODY_ELSE as error:
            raise self._no_handshake(error) from error

    def _no_handshake(self, error: Exception) -> ComfyError:
        """Return what it means that a handshake was answered and came to nothing."""
        if not isinstance(error, websocket.WebSocketBadStatusException):
            reason = str(error)
        elif is_passing(error.status_code):
            return ServerUnreachable(f"no answer from ComfyUI at {self._url}: {error.status_code}")
        else:
            # Its own words are all headers and the whole page.
            reason = f"{error.status_code} {error.status_message}"
        return StrangeAnswer(
            f"{self._url} does not take ComfyUI's websocket ({reason}); check the address, the name and password in "
            "it, and any proxy on the way"
        )

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def decode(frame: str | bytes, prompt_id: str) -> Event | None:
    """The event that a websocket message carries, or None if it is about another run or about nothing we know."""
    return _decode_binary(frame, prompt_id) if isinstance(frame, bytes) else _decode_text(frame, prompt_id)


def _decode_text(frame: str, prompt_id: str) -> Event | None:
    # Nothing in it can be relied on: packs broadcast what they like, in forms of their own. It is empty when the
    # connection is being closed.
    message = _object_in(frame)
    kind, data = message.get("type"), message.get("data")
    if not isinstance(data, dict) or data.get("prompt_id") != prompt_id:
        return None
    if kind == "progress":
        return _progress(data)
    return Message(kind=str(kind), data=data)


def _progress(data: Mapping[str, Any]) -> Progress | None:
    value, maximum = data.get("value"), data.get("max")
    if not isinstance(value, int | float) or not isinstance(maximum, int | float):
        return None
    return Progress(node_id=str(data.get("node")), value=value, maximum=maximum)


def _decode_binary(frame: bytes, prompt_id: str) -> Event | None:
    """A preview. The message begins with two big-endian integers: its kind, and the image type or metadata's length."""
    if len(frame) < 8:
        return None
    kind, second = struct.unpack_from(">II", frame)
    if kind == _PREVIEW:
        return Preview(node_id=None, mime_type=_IMAGE_TYPES.get(second, "image/jpeg"), image=frame[8:])
    if kind != _PREVIEW_WITH_METADATA:
        return None
    metadata = _object_in(frame[8 : 8 + second])
    if metadata.get("prompt_id") != prompt_id:
        return None
    mime_type = metadata.get("image_type", "image/jpeg")
    return Preview(node_id=metadata.get("node_id"), mime_type=mime_type, image=frame[8 + second :])


def _object_in(text: str | bytes) -> dict[str, Any]:
    """The JSON object that a text is; empty if it is anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
