"""A key in the environment reaches the server, and turns up nowhere else: not even when the server sends it back."""

from __future__ import annotations

import base64
import html
import json
import logging
import pickle
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from urllib.parse import quote, quote_plus

import pytest

from sfpp_core.stability.judges.gemini import GeminiJudge
from sfpp_core.stability.judges.openai_compatible import OpenAICompatibleJudge
from sfpp_core.stability.judges.remote import HIDDEN, Patience, guard_client_logs, scrub
from sfpp_core.stability.score import Judge, JudgeError
from sfpp_core.video.span import VideoSpan
from tests.helpers.judge_servers import (
    ChatServer,
    GeminiServer,
    Reply,
    Request,
    Server,
    chat_error,
    chat_says,
    gemini_error,
    gemini_says,
    rating_json,
)
from tests.helpers.videos import moving_square

# With characters that change in a URL and none that change in JSON.
KEY = "PLANTED+key/0123456789=QX"
MARK = "PLANTED"
PATIENCE = Patience(request_seconds=1, total_seconds=10, attempts=2, backoff_seconds=0.02, poll_seconds=0.01, asks=2)


@pytest.fixture(scope="module")
def video() -> VideoSpan:
    return VideoSpan.from_images(moving_square(4))


def gemini(monkeypatch: pytest.MonkeyPatch, url: str) -> GeminiJudge:
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", url)
    return GeminiJudge(patience=PATIENCE, inline_bytes=10)


def openai(monkeypatch: pytest.MonkeyPatch, url: str) -> OpenAICompatibleJudge:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("SFPP_JUDGE_BASE_URL", f"{url}/v1")
    return OpenAICompatibleJudge(patience=PATIENCE)


def echoing(server: Server) -> Server:
    """A server that puts the key that it was sent into a header of every answer, as a careless gateway may."""
    answer = server.answer

    def echo(request: Request) -> Reply:
        reply = answer(request)
        return replace(reply, headers={**reply.headers, "X-Sent-Key": KEY})

    server.answer = echo
    return server


ECHO = f"your key {KEY} (key=PLANTED%2Bkey%2F0123456789%3DQX)"
REPLIES: dict[str, tuple[Reply, Reply]] = {
    "a rating": (gemini_says(rating_json(4, ECHO)), chat_says(rating_json(4, ECHO))),
    "no rating": (gemini_says(ECHO), chat_says(ECHO)),
    "a wrong key": (gemini_error(400, ECHO, ECHO, {"reason": "API_KEY_INVALID"}), chat_error(400, ECHO)),
    "a key quoted in part": (gemini_error(401, "UNAUTHENTICATED", "PLANTED***"), chat_error(401, "key PLANTED***QX")),
    "an error": (gemini_error(500, "INTERNAL", ECHO), chat_error(500, ECHO)),
    "busy": (gemini_error(429, "X", ECHO, **{"Retry-After": "99"}), chat_error(429, ECHO, **{"Retry-After": "99"})),
    "a refusal": (
        Reply(body={"promptFeedback": {"blockReason": "SAFETY", "blockReasonMessage": ECHO}}),
        chat_says(None, refusal=ECHO),
    ),
    "broken JSON": (Reply(body=f'{{"{ECHO}'.encode()), Reply(body=f'{{"{ECHO}'.encode())),
    "JSON of another kind": (Reply(body={"candidates": ECHO}), Reply(body={"choices": ECHO})),
    "no answer": (Reply(hang_up=True), Reply(hang_up=True)),
    "a late answer": (Reply(delay=20), Reply(delay=20)),
}


@pytest.fixture(params=["gemini", "openai"])
def judge_and_server(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Judge, Server, int]]:
    """A judge, its server, and which of a pair of replies is the server's."""
    make: Callable[[pytest.MonkeyPatch, str], Judge]
    make, server, index = (gemini, GeminiServer(), 0) if request.param == "gemini" else (openai, ChatServer(), 1)
    with echoing(server).running() as url:
        yield make(monkeypatch, url), server, index


@pytest.mark.parametrize("case", REPLIES)
def test_a_key_is_sent_and_then_found_nowhere(
    case: str,
    judge_and_server: tuple[Judge, Server, int],
    video: VideoSpan,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judge, server, index = judge_and_server
    server.replies = [REPLIES[case][index]]
    uncaught: list[object] = []
    monkeypatch.setattr(threading, "excepthook", uncaught.append)
    told = [repr(judge), str(judge), judge.name, repr(pickle.dumps(judge))]
    with caplog.at_level(logging.DEBUG):
        try:
            told.append(repr(judge.rate(video, "a prompt")))
        except JudgeError as error:
            told += [repr(error), "".join(traceback.format_exception(error))]
            assert error.__context__ is None and error.__cause__ is None
    told += [caplog.text, *map(str, caplog.records), *capfd.readouterr(), *map(repr, uncaught)]
    told += [str(vars(record)) for record in caplog.records]
    sent = server.requests[0].headers
    assert KEY in (sent["x-goog-api-key"] if isinstance(judge, GeminiJudge) else sent["authorization"])
    assert not [text for text in told if MARK in text]
    # The libraries did log what came back, so that there was something to hide.
    assert HIDDEN in caplog.text or case in ("no answer", "a late answer")


def test_a_key_is_known_in_every_form_that_it_travels_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}-and-more")
    monkeypatch.setenv("GOOGLE_API_KEY", "none")
    assert scrub(f"?key={KEY}-and-more&none") == f"?key={HIDDEN}&none"
    assert MARK not in scrub(ECHO)


def test_a_password_in_the_address_is_a_key_too(
    video: VideoSpan, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = ChatServer()
    server.replies = [chat_error(400, "no such user: PLANTED-password")]
    with echoing(server).running() as url:
        monkeypatch.setenv("SFPP_JUDGE_BASE_URL", f"{url.replace('//', '//user:PLANTED-password@')}/v1")
        judge = OpenAICompatibleJudge(patience=PATIENCE)
        with caplog.at_level(logging.DEBUG), pytest.raises(JudgeError, match="no such user: .key.") as caught:
            judge.rate(video, "")
    assert server.requests[0].headers["authorization"].startswith("Basic ")
    assert MARK not in repr(judge) + str(caught.value) + caplog.text.replace(KEY, "")


SECRET = "s3cret/pa+ss&wörd"
SPELLINGS = {
    "as it is": SECRET,
    "in a URL": quote(SECRET, safe=""),
    "in a URL, by small letters": quote(SECRET, safe="").lower(),
    "in a path": quote(SECRET),
    "in a query": quote_plus(SECRET),
    "in a URL in a URL": quote(quote(SECRET, safe=""), safe=""),
    "in JSON": json.dumps(SECRET),
    "in JSON with its own letters": json.dumps(SECRET, ensure_ascii=False),
    "in JavaScript": json.dumps(SECRET).replace("/", "\\/"),
    "in Python": repr(SECRET.encode()),
    "in HTML": html.escape(SECRET),
    "as Basic authentication": base64.b64encode(f"user:{SECRET}".encode()).decode(),
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS.keys())
@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "OPENAI_BASE_URL", "ANY_SERVER_BASE_URL"])
def test_a_password_is_hidden_however_it_is_spelled(name: str, spelling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, f"http://user:{quote(SECRET, safe='')}@localhost:1/v1")
    said = scrub(f"the proxy said: {spelling}, and no more")
    assert HIDDEN in said and said.endswith(", and no more") and spelling.strip('"') not in said


def test_loggers_that_are_made_later_are_scrubbed_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    guard_client_logs()
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("httpcore.made_just_now").debug("sent %s", KEY)
        logging.getLogger("anybody").debug("nothing to hide")
    assert MARK not in caplog.text and f"sent {HIDDEN}" in caplog.text and "nothing to hide" in caplog.text


@pytest.mark.parametrize("key", ["two words", "a\nline", "schlüssel-0123456789", "tab\tbed", "“quoted”"])
def test_a_key_that_cannot_be_sent_is_refused_in_words_and_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.setenv("GEMINI_API_KEY", key)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    for make in (GeminiJudge, OpenAICompatibleJudge):
        with pytest.raises(JudgeError, match="so it cannot be sent. Copy the key again") as caught:
            make()
        assert key not in str(caught.value)
