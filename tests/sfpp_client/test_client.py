"""What the client makes of answers that no ComfyUI gives: everything it raises is a ComfyError that says where."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sfpp_client import (
    ComfyClient,
    ComfyError,
    OutputFile,
    ResultGone,
    RunInterrupted,
    RunLost,
    ServerUnreachable,
    StrangeAnswer,
    Unsendable,
    WorkflowRefused,
    protocol,
)
from sfpp_client import client as client_module
from sfpp_client.queue.outcome import ExitCode, exit_code_of
from tests.helpers.stand_in import NOTHING_QUEUED, PAGE, Answer, StandIn, of_json, page, standing_in

VIDEO = OutputFile(node_id="1", filename="video.mp4", subfolder="", folder="output")


@pytest.fixture
def server() -> Iterator[StandIn]:
    with standing_in() as server:
        yield server


@pytest.fixture
def client(server: StandIn) -> ComfyClient:
    return ComfyClient(server.url)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short silences: what takes a second of each in earnest takes a moment here."""
    monkeypatch.setattr(protocol, "_SILENCE_S", 0.02)
    monkeypatch.setattr(client_module, "_QUEUE_INTERVAL_S", 0.02)


def test_an_answer_that_is_no_json_is_shown(server: StandIn, client: ComfyClient):
    server.answers["object_info"] = [page()]
    with pytest.raises(StrangeAnswer, match="GET /object_info: .* is no JSON: <html>Please log in"):
        client.object_info()


@pytest.mark.parametrize("answer", [[], "away", {"queue_running": None}, {"error": "maintenance"}])
def test_json_that_is_not_comfyuis_is_shown(server: StandIn, client: ComfyClient, answer: object):
    server.answers["queue"] = [of_json(answer)]
    with pytest.raises(StrangeAnswer, match="GET /queue: the answer of .* is not ComfyUI's: "):
        client.place_in_queue("1")


def test_a_server_that_is_no_comfyui_takes_no_workflow(server: StandIn, client: ComfyClient):
    server.answers["prompt"] = [page()]
    with pytest.raises(StrangeAnswer, match="POST /prompt: .* is not ComfyUI's: <html>Please log in"):
        client.queue({})


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, WorkflowRefused, ExitCode.REFUSED),
        (413, WorkflowRefused, ExitCode.REFUSED),
        (500, WorkflowRefused, ExitCode.REFUSED),
        (401, StrangeAnswer, ExitCode.NOT_COMFYUI),
        (403, StrangeAnswer, ExitCode.NOT_COMFYUI),
        (404, StrangeAnswer, ExitCode.NOT_COMFYUI),
        (429, ServerUnreachable, ExitCode.UNAVAILABLE),
        (522, ServerUnreachable, ExitCode.UNAVAILABLE),
    ],
)
def test_who_does_not_take_a_workflow(
    server: StandIn, client: ComfyClient, status: int, kind: type[ComfyError], code: ExitCode
):
    server.answers["prompt"] = [page(status)]
    with pytest.raises(kind, match=str(status)) as refused:
        client.queue({})
    assert exit_code_of(refused.value) == code


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (page(), ExitCode.NOT_COMFYUI, r"\(200 OK\); check the address"),
        (page(401), ExitCode.NOT_COMFYUI, "401 Unauthorized"),
        (page(404), ExitCode.NOT_COMFYUI, "404 Not Found"),
        (Answer(status=302, headers={"Location": "/login"}), ExitCode.NOT_COMFYUI, "check the address"),
        (page(429), ExitCode.UNAVAILABLE, "no answer from ComfyUI .*429"),
        (page(500), ExitCode.UNAVAILABLE, "no answer from ComfyUI .*500"),
        (page(503), ExitCode.UNAVAILABLE, "no answer from ComfyUI .*503"),
    ],
)
def test_who_does_not_take_a_listener(server: StandIn, client: ComfyClient, answer: Answer, code: ExitCode, words: str):
    server.answers["ws"] = [answer]
    with pytest.raises(ComfyError, match=words) as refused:
        client.run({})
    assert exit_code_of(refused.value) == code
    assert PAGE.decode() not in str(refused.value) and server.prompt_id is None


def test_a_port_that_speaks_something_else():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(StrangeAnswer, match="does not take ComfyUI's websocket"):
            ComfyClient(f"http://127.0.0.1:{listener.getsockname()[1]}").run({})


@pytest.mark.parametrize("answer", [page(status) for status in (200, 403, 429, 500, 502, *range(520, 525))])
def test_an_odd_history_does_not_stop_a_run(server: StandIn, client: ComfyClient, hurried: None, answer: Answer):
    made = {"save": {"text": ["made"]}}
    server.answers["history"] = [answer, answer, lambda: server.has_made(**made)]
    assert client.run({}, patience_s=60).outputs == made
    assert "interrupt" not in [name for name, _ in server.headers]


@pytest.mark.parametrize("answer", [of_json({"error": "maintenance"}), of_json({"queue_running": [[]]}), page(502)])
def test_an_odd_queue_does_not_stop_a_run(server: StandIn, client: ComfyClient, hurried: None, answer: Answer):
    server.answers["queue"] = [answer, lambda: server.waiting(running=[[1, "of somebody else"]])]
    server.answers["history"] = [*[of_json({})] * 3, server.has_made]
    assert client.run({}, patience_s=60).outputs == {}
    assert "interrupt" not in [name for name, _ in server.headers]


@pytest.mark.parametrize(
    ("answer", "code"), [(page(500), ExitCode.UNAVAILABLE), (page(200), ExitCode.NOT_COMFYUI)], ids=["away", "page"]
)
def test_patience_with_odd_answers_ends(
    server: StandIn, client: ComfyClient, hurried: None, answer: Answer, code: ExitCode
):
    server.answers["history"] = [answer]
    with pytest.raises(ComfyError) as given_up:
        client.run({}, patience_s=0.2)
    assert exit_code_of(given_up.value) == code
    assert "interrupt" in [name for name, _ in server.headers]


def test_a_run_that_is_deleted_after_a_cut_was_not_lost_by_a_restart(
    server: StandIn, client: ComfyClient, hurried: None
):
    server.cuts = 1
    server.answers["queue"] = [*[server.waiting] * 5, NOTHING_QUEUED]
    with pytest.raises(RunInterrupted, match="somebody emptied"):
        client.run({}, patience_s=60)
    assert [name for name, _ in server.headers].count("ws") == 2, "it was cut"


def test_a_run_that_is_unknown_right_after_a_cut_was_lost_by_a_restart(
    server: StandIn, client: ComfyClient, hurried: None
):
    server.cuts = 1
    with pytest.raises(RunLost, match="it was restarted"):
        client.run({}, patience_s=60)


def test_a_video_that_breaks_off_leaves_no_file(server: StandIn, client: ComfyClient, tmp_path: Path):
    server.answers["view"] = [Answer(body=b"a part", headers={"Content-Length": "1000"})]
    with pytest.raises(ServerUnreachable, match="lost in the middle of video.mp4"):
        client.download(VIDEO, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_video_that_is_gone_is_named(server: StandIn, client: ComfyClient, tmp_path: Path):
    server.answers["view"] = [Answer(status=404)]
    for fetch in (client.read, lambda file: client.download(file, tmp_path)):
        with pytest.raises(ResultGone, match="does not have video.mp4 any more.*queue the workflow again") as gone:
            fetch(VIDEO)
        assert exit_code_of(gone.value) == ExitCode.INTERRUPTED
    assert not list(tmp_path.iterdir())


def test_a_page_is_no_video(server: StandIn, client: ComfyClient, tmp_path: Path):
    server.answers["view"] = [page()]
    with pytest.raises(StrangeAnswer, match="with a page and not with video.mp4"):
        client.download(VIDEO, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_json_lacks_is_the_callers_mistake(server: StandIn, client: ComfyClient, number: float):
    with pytest.raises(Unsendable, match="cannot be written as JSON") as refused:
        client.run({"1": {"class_type": "SFPPSampler", "inputs": {"shift": number}}})
    assert exit_code_of(refused.value) == ExitCode.REFUSED
    assert [name for name, _ in server.headers] == ["ws"], "nothing is stopped that never began"


def test_who_we_are_goes_along_with_every_request_and_into_no_message(
    server: StandIn, hurried: None, caplog: pytest.LogCaptureFixture
):
    client = ComfyClient(f"http://b%C3%B6b:se%40cret@{server.host}")
    server.cuts = 1
    server.answers["queue"] = [*[server.waiting] * 3, NOTHING_QUEUED]
    with caplog.at_level(logging.DEBUG), pytest.raises(ComfyError) as ended:
        client.run({}, patience_s=60)
    # base64 of "b\u00f6b:se@cret" in UTF-8
    assert {login for _, login in server.headers} == {"Basic YsO2YjpzZUBjcmV0"}
    assert {"ws", "prompt", "history", "queue"} <= {name for name, _ in server.headers}
    assert client.url == server.url
    assert "lost the websocket" in caplog.text and "cret" not in caplog.text + str(ended.value)


def test_no_message_of_a_server_that_is_away_tells_the_password():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client = ComfyClient(f"http://bob:secret@127.0.0.1:{unused.getsockname()[1]}")
        for call in (client.object_info, lambda: client.run({})):
            with pytest.raises(ServerUnreachable) as away:
                call()
            assert "secret" not in str(away.value) and "bob" not in str(away.value)


@pytest.mark.parametrize(
    "url",
    [
        *("http://h:abc", "http://h:99999", "http://h:0", "http://h:-1", "http://[::1", "http://h..x"),
        *("http://h/?token=secret", "http://h?token=secret", "http://h/#secret", "http://bob:secret@", "secret@h"),
        *("http://bob:secret@h:abc", "http://bob:se/secret@h", "http://bob:se?secret@h"),
    ],
)
def test_an_address_that_is_none_is_refused_without_telling_its_secrets(url: str):
    with pytest.raises(
        ValueError, match="give the server's address with nothing behind it, such as http://"
    ) as refused:
        ComfyClient(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://h", "http://h"),
        ("https://h:8188/", "https://h:8188"),
        ("HTTP://bob:secret@[::1]:80/comfy/", "http://[::1]:80/comfy"),
        ("http://bob@h_1.local", "http://h_1.local"),
    ],
)
def test_an_address_is_shown_without_name_and_password(url: str, shown: str):
    assert ComfyClient(url).url == shown
