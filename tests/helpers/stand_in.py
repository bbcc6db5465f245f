"""A server in place of ComfyUI that answers what a test says: the odd answers that no ComfyUI gives on demand."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_HANDSHAKE = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455
_CLOSE = 8

PAGE = b"<html>Please log in</html>"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One HTTP answer."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def of_json(value: object) -> Answer:
    return Answer(body=json.dumps(value).encode(), headers={"Content-Type": "application/json"})


def page(status: int = 200) -> Answer:
    """What a proxy shows in place of the server."""
    return Answer(status=status, body=PAGE, headers={"Content-Type": "text/html; charset=utf-8"})


Answers = list[Answer | Callable[[], Answer]]
"""One after the other, the last for ever; what is not known before is made when it is asked for."""

NOTHING_QUEUED = of_json({"queue_running": [], "queue_pending": []})


class StandIn(ThreadingHTTPServer):
    """Takes every workflow, runs none, and has a websocket that says nothing, unless a test says otherwise."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, Answers] = {"queue": [NOTHING_QUEUED], "history": [of_json({})]}
        """By the first part of the path; without any for "prompt" workflows are taken, for "ws" listeners."""
        self.headers: list[tuple[str, str | None]] = []
        """The first part of the path of every request, and as whom it was sent."""
        self.prompt_id: str | None = None
        """The id of the last workflow."""
        self.cuts = 0
        """How many of the next websockets are to be cut after their first message."""

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def waiting(self, *, running: Sequence[object] = ()) -> Answer:
        """A queue in which the last workflow waits."""
        return of_json({"queue_running": running, "queue_pending": [[1, self.prompt_id]]})

    def has_made(self, **outputs: object) -> Answer:
        """The history of the last workflow, which has ended well."""
        return of_json({self.prompt_id: {"status": {"status_str": "success"}, "outputs": outputs}})


@contextmanager
def standing_in() -> Iterator[StandIn]:
    with StandIn() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        name = urlsplit(self.path).path.split("/")[1]
        self.server.headers.append((name, self.headers.get("Authorization")))
        if name in self.server.answers:
            self._send(self._next(self.server.answers[name]))
        elif name == "ws":
            self._listen()
        elif name == "prompt":
            self.server.prompt_id = json.loads(body)["prompt_id"]
            self._send(of_json({"prompt_id": self.server.prompt_id, "node_errors": {}}))
        else:
            self._send(Answer())

    do_POST = do_GET

    def _next(self, answers: Answers) -> Answer:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return answer() if callable(answer) else answer

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def _listen(self) -> None:
        key = self.headers["Sec-WebSocket-Key"] + _HANDSHAKE
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.close_connection = True
        # Every message of the client's is short: two bytes, a mask of four, and what the second byte says.
        while (head := self.rfile.read(2)) and head[0] & 0x0F != _CLOSE:
            self.rfile.read(4 + (head[1] & 0x7F))
            if self.server.cuts:
                self.server.cuts -= 1
                return

    def log_message(self, *_: object) -> None:
        pass
