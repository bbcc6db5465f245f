"""What the client makes of answers that no ComfyUI gives: everything it raises is a ComfyError that says where."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scripts.comfy_client import ComfyClient, ComfyError, OutputFile, ServerUnreachable

FILM = OutputFile(node_id="1", filename="film.mp4", subfolder="", folder="output")
PAGE = b"<html>Please log in</html>"


class Stranger(BaseHTTPRequestHandler):
    """A web page at every address, and a film that breaks off."""

    def do_GET(self) -> None:
        promised = 1000 if self.path.startswith("/view") else len(PAGE)
        self.send_response(200)
        self.send_header("Content-Length", str(promised))
        self.end_headers()
        self.wfile.write(PAGE)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def client() -> Iterator[ComfyClient]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield ComfyClient(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def test_an_answer_that_is_no_json_is_shown(client: ComfyClient):
    with pytest.raises(ComfyError, match="GET /object_info: .* is no JSON: <html>Please log in"):
        client.object_info()


def test_a_server_that_is_no_comfyui_takes_no_workflow(client: ComfyClient):
    with pytest.raises(ComfyError, match="POST /prompt: .* is not ComfyUI's: <html>Please log in"):
        client.queue({})


def test_a_film_that_breaks_off_leaves_no_file(client: ComfyClient, tmp_path: Path):
    with pytest.raises(ServerUnreachable, match="lost in the middle of film.mp4"):
        client.download(FILM, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_number_that_json_lacks_is_the_callers_mistake(client: ComfyClient):
    with pytest.raises(ComfyError, match="cannot be written as JSON") as refused:
        client.queue({"1": {"class_type": "SFPPSampler", "inputs": {"shift": float("nan")}}})
    assert not isinstance(refused.value, ServerUnreachable)
