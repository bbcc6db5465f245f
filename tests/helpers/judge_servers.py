"""Servers on loopback that speak the protocols of remote judges and go wrong as they are told to."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

UPLOAD_URL_HEADER = "X-Goog-Upload-URL"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a client sent, and when (seconds of a monotonic clock)."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    time: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the server answers; `body` is sent as JSON unless it is bytes already."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    """Seconds before the answer begins."""
    drip: float = 0.0
    """Seconds between two bytes of the answer: a client's time-out between bytes never comes to pass."""
    hang_up: bool = False
    """Close the connection without an answer."""


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that time out or are interrupted leave in the middle; anything else is a fault of the server's."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Server:
    """Keeps what it was sent and answers with `answer`."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.replies: list[Reply] = []
        """Answers to the question, in order; the last is repeated."""
        self.url = ""
        self.stopping = threading.Event()

    def answer(self, request: Request) -> Reply:
        raise NotImplementedError

    def next_reply(self) -> Reply:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]

    def sent_to(self, method: str, end: str) -> list[Request]:
        return [request for request in self.requests if request.method == method and request.path.endswith(end)]

    @contextmanager
    def running(self) -> Iterator[str]:
        """The server's address while it runs; all of it has ended afterwards."""
        http = _QuietServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self.url
        finally:
            self.stopping.set()
            http.shutdown()
            thread.join()
            http.server_close()


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(method=self.command, path=self.path, headers=headers, body=body, time=time.monotonic())
            server.requests.append(request)
            reply = server.answer(request)
            server.stopping.wait(reply.delay)
            if reply.hang_up:
                self.close_connection = True
                return
            self.send(reply)

        def send(self, reply: Reply) -> None:
            data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            try:
                for index in range(len(data)) if reply.drip else ():
                    self.wfile.write(data[index : index + 1])
                    self.wfile.flush()
                    server.stopping.wait(reply.drip)
                if not reply.drip:
                    self.wfile.write(data)
            except OSError:
                self.close_connection = True  # the client has had enough, which is what some tests are about

        def log_message(self, *_: object) -> None:
            """Nothing on stderr: a test looks there for keys."""

        do_GET = do_POST = do_DELETE = handle_any

    return Handler


class GeminiServer(Server):
    """The part of generativelanguage.googleapis.com that a judge needs: files and generateContent."""

    def __init__(self) -> None:
        super().__init__()
        self.states = ["ACTIVE"]
        """The states of an uploaded file at one look after the other; the last is repeated."""
        self.file_replies: list[Reply] = []
        """Answers in place of the right ones, to the first requests about files."""
        self.uploaded: list[bytes] = []
        self.deleted: list[str] = []

    def answer(self, request: Request) -> Reply:
        if request.path.endswith(":generateContent"):
            return self.next_reply()
        if self.file_replies:
            return self.file_replies.pop(0)
        if request.method == "DELETE":
            self.deleted.append(request.path.rsplit("/", 1)[1])
            return Reply()
        if request.method == "GET":
            return Reply(body=self._file())
        if request.headers["x-goog-upload-command"] == "start":
            return Reply(headers={UPLOAD_URL_HEADER: f"{self.url}/upload/v1beta/files?upload_id=1"})
        self.uploaded.append(request.body)
        return Reply(body={"file": self._file()}, headers={"X-Goog-Upload-Status": "final"})

    def _file(self) -> dict[str, Any]:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        failed = {"error": {"code": 3, "message": "no video track"}} if state == "FAILED" else {}
        name = "files/clip1"
        return {"name": name, "uri": f"{self.url}/v1beta/{name}", "mimeType": "video/mp4", "state": state, **failed}


def gemini_says(text: str, end: str = "STOP") -> Reply:
    """What Gemini answers when the model wrote `text`."""
    content = {"role": "model", "parts": [{"text": text}]}
    return Reply(body={"candidates": [{"content": content, "finishReason": end, "index": 0}]})


def gemini_error(code: int, status: str, message: str, *details: dict[str, Any], **headers: str) -> Reply:
    """How Google's servers refuse."""
    error = {"code": code, "status": status, "message": message, "details": list(details)}
    return Reply(status=code, body={"error": error}, headers=headers)


def rating_json(rating: object = 4, explanation: str = "Balanced to the end.") -> str:
    return json.dumps({"explanation": explanation, "rating": rating})


class ChatServer(Server):
    """The part of an OpenAI-compatible server that a judge needs."""

    def answer(self, request: Request) -> Reply:
        if request.path != "/v1/chat/completions":
            return Reply(status=404, body={"error": {"message": f"no such path: {request.path}"}})
        return self.next_reply()


def chat_says(text: str | None, end: str = "stop", **message: str) -> Reply:
    """What such a server answers when the model wrote `text`."""
    choice = {"index": 0, "finish_reason": end, "message": {"role": "assistant", "content": text, **message}}
    return Reply(body={"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})


def chat_error(status: int, message: str, **headers: str) -> Reply:
    return Reply(status=status, body={"error": {"message": message, "type": "error", "code": None}}, headers=headers)
