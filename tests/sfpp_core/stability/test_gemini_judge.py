"""The Gemini judge, with Google's own client, against a server that speaks Gemini's REST protocol and misbehaves."""

from __future__ import annotations

import base64
import logging
import pickle
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from sfpp_core.stability.judges.gemini import GeminiJudge
from sfpp_core.stability.judges.remote import Patience
from sfpp_core.stability.score import JudgeError
from sfpp_core.video.span import VideoSpan
from tests.helpers.judge_servers import GeminiServer, Reply, gemini_error, gemini_says, rating_json
from tests.helpers.videos import moving_square

GOOD = gemini_says(rating_json(4))
RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"
QUICK = Patience(request_seconds=5, total_seconds=20, attempts=3, backoff_seconds=0.02, poll_seconds=0.01)
JUDGE_BY_UPLOAD = {"inline_bytes": 10}


@pytest.fixture(scope="module")
def video() -> VideoSpan:
    return VideoSpan.from_images(moving_square(8))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[GeminiServer]:
    for name in ("GOOGLE_API_KEY", "GOOGLE_GENAI_USE_VERTEXAI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GEMINI_API_KEY", "a-key-for-tests")
    server = GeminiServer()
    server.replies = [GOOD]
    with server.running() as url:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", url)
        yield server


def judge(**settings: object) -> GeminiJudge:
    return GeminiJudge(**{"patience": QUICK, **settings})


def questions(server: GeminiServer) -> list[str]:
    """The text of every question that was put."""
    sent = server.sent_to("POST", ":generateContent")
    return [part["text"] for request in sent for part in request.json["contents"][0]["parts"] if "text" in part]


def test_a_small_clip_goes_into_the_request(server: GeminiServer, video: VideoSpan) -> None:
    rating = judge(model="gemini-test").rate(video, "a red square")
    assert (rating.rating, rating.explanation) == (4, "Balanced to the end.")
    (request,) = server.requests
    assert request.path.endswith("/models/gemini-test:generateContent")
    assert request.headers["x-goog-api-key"] == "a-key-for-tests"
    clip = request.json["contents"][0]["parts"][0][
        "inlineData" if "inlineData" in request.body.decode() else "inline_data"
    ]
    assert base64.urlsafe_b64decode(clip["data"]) == video.mp4()
    assert "a red square" in questions(server)[0]
    config = request.json["generationConfig"]
    assert config["responseMimeType"] == "application/json"
    assert config["responseJsonSchema"]["propertyOrdering"] == ["explanation", "rating"]


def test_a_large_clip_is_uploaded_waited_for_and_deleted(server: GeminiServer, video: VideoSpan) -> None:
    server.states = ["PROCESSING", "PROCESSING", "PROCESSING", "ACTIVE"]
    assert judge(**JUDGE_BY_UPLOAD).rate(video, "").rating == 4
    assert server.uploaded == [video.mp4()]
    assert len(server.sent_to("GET", "/files/clip1")) == 3
    (request,) = server.sent_to("POST", ":generateContent")
    assert f"{server.url}/v1beta/files/clip1" in request.body.decode()
    assert server.deleted == ["clip1"]


def test_a_clip_that_the_server_cannot_read_is_named_and_deleted(server: GeminiServer, video: VideoSpan) -> None:
    server.states = ["PROCESSING", "FAILED"]
    with pytest.raises(JudgeError, match=r"could not rate .*cannot read the video \(no video track\)"):
        judge(**JUDGE_BY_UPLOAD).rate(video, "")
    assert server.deleted == ["clip1"] and not server.sent_to("POST", ":generateContent")


def test_trouble_with_files_passes_too(server: GeminiServer, video: VideoSpan) -> None:
    server.file_replies = [gemini_error(503, "UNAVAILABLE", "busy"), Reply(hang_up=True)]
    assert judge(**JUDGE_BY_UPLOAD).rate(video, "").rating == 4
    assert server.deleted == ["clip1"]


def test_a_clip_that_cannot_be_deleted_is_mentioned_and_the_rating_kept(
    server: GeminiServer, video: VideoSpan, caplog: pytest.LogCaptureFixture
) -> None:
    answer = server.answer
    server.answer = lambda request: Reply(status=500) if request.method == "DELETE" else answer(request)
    with caplog.at_level(logging.WARNING):
        assert judge(**JUDGE_BY_UPLOAD).rate(video, "").rating == 4
    assert "not deleted (the server answered 500" in caplog.text


@pytest.mark.parametrize(
    "refusal",
    [
        gemini_error(
            429,
            "RESOURCE_EXHAUSTED",
            "slow",
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.6s"},
        ),
        gemini_error(429, "RESOURCE_EXHAUSTED", "slow", **{"Retry-After": "1"}),
    ],
    ids=["RetryInfo", "Retry-After"],
)
def test_a_busy_server_is_left_alone_as_long_as_it_asks(server: GeminiServer, video: VideoSpan, refusal: Reply) -> None:
    server.replies = [refusal, GOOD]
    assert judge().rate(video, "").rating == 4
    first, second = server.requests
    assert 0.6 <= second.time - first.time < 3


def test_a_wait_that_is_too_long_is_not_begun(server: GeminiServer, video: VideoSpan) -> None:
    server.replies = [gemini_error(429, "RESOURCE_EXHAUSTED", "daily quota", **{"Retry-After": "3600"}), GOOD]
    started = time.monotonic()
    with pytest.raises(JudgeError, match="daily quota; waiting 3600 s more would take too long"):
        judge().rate(video, "")
    assert time.monotonic() - started < 3 and len(server.requests) == 1


@pytest.mark.parametrize(
    "trouble",
    [
        gemini_error(500, "INTERNAL", "oops"),
        gemini_error(503, "UNAVAILABLE", "overloaded"),
        Reply(status=502, body=b"<html>bad gateway</html>"),
        Reply(hang_up=True),
        Reply(body=b'{"candidates": [{"content"'),
        Reply(body={"candidates": "none of the right kind"}),
    ],
    ids=["500", "503", "a proxy's 502", "no answer", "broken JSON", "JSON of another kind"],
)
def test_trouble_that_may_pass_is_waited_out(server: GeminiServer, video: VideoSpan, trouble: Reply) -> None:
    server.replies = [trouble, trouble, GOOD]
    assert judge().rate(video, "").rating == 4
    assert len(server.requests) == 3


def test_trouble_that_does_not_pass_ends_after_the_last_attempt(server: GeminiServer, video: VideoSpan) -> None:
    server.replies = [gemini_error(500, "INTERNAL", "oops")]
    with pytest.raises(JudgeError, match=r"the server answered 500: INTERNAL: oops \(3 attempts\)\.$"):
        judge().rate(video, "")
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (gemini_error(400, "INVALID_ARGUMENT", "too long"), "answered 400: INVALID_ARGUMENT: too long."),
        (
            gemini_error(400, "INVALID_ARGUMENT", "API key not valid.", {"reason": "API_KEY_INVALID"}),
            "API key not valid. Check the key in GOOGLE_API_KEY or GEMINI_API_KEY.",
        ),
        (gemini_error(401, "UNAUTHENTICATED", "who?"), "answered 401. Check the key"),
        (
            gemini_error(403, "PERMISSION_DENIED", "not in your country"),
            "403: PERMISSION_DENIED: not in your country. C",
        ),
        (gemini_error(404, "NOT_FOUND", "models/gemini-2.5-pro is not found"), "models/gemini-2.5-pro is not found"),
    ],
)
def test_a_refused_request_is_not_sent_again(
    server: GeminiServer, video: VideoSpan, refusal: Reply, message: str
) -> None:
    server.replies = [refusal, GOOD]
    with pytest.raises(JudgeError) as caught:
        judge().rate(video, "")
    assert message in str(caught.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        gemini_says('{"explanation": "Cut o', end="MAX_TOKENS"),
        gemini_says("Splendid!"),
        gemini_says(rating_json(9)),
        gemini_says(rating_json(explanation="")),
        Reply(body={"candidates": []}),
        Reply(body=b""),
        Reply(body={"candidates": [{"finishReason": "OTHER"}]}),
    ],
    ids=["cut off", "no JSON", "not on the scale", "no explanation", "no candidates", "nothing", "no content"],
)
def test_an_answer_that_is_no_rating_is_asked_for_again(server: GeminiServer, video: VideoSpan, answer: Reply) -> None:
    server.replies = [answer, GOOD]
    assert judge().rate(video, "a prompt").rating == 4
    first, second = questions(server)
    assert second.startswith(first) and "could not be used" in second[len(first) :]


def test_a_model_that_never_gives_a_rating_is_given_up(server: GeminiServer, video: VideoSpan) -> None:
    server.replies = [gemini_says("Splendid!")]
    with pytest.raises(JudgeError, match="answers cannot be used .*'Splendid!'"):
        judge().rate(video, "")
    assert len(server.requests) == QUICK.asks


@pytest.mark.filterwarnings("ignore:A_NEW_ONE")  # the client's, about a reason that is younger than itself
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Reply(body={"promptFeedback": {"blockReason": "SAFETY"}}), "the request was blocked, SAFETY"),
        (Reply(body={"promptFeedback": {"blockReason": "A_NEW_ONE"}}), "the request was blocked, A_NEW_ONE"),
        (gemini_says("", end="SAFETY"), "the answer was blocked, SAFETY"),
        (Reply(body={"candidates": [{"finishReason": "PROHIBITED_CONTENT"}]}), "blocked, PROHIBITED_CONTENT"),
    ],
)
def test_a_block_is_final_and_its_reason_told(
    server: GeminiServer, video: VideoSpan, answer: Reply, reason: str
) -> None:
    server.replies = [answer, GOOD]
    with pytest.raises(JudgeError, match=f"it refused .*{reason}.*offline judge"):
        judge(**JUDGE_BY_UPLOAD).rate(video, "")
    assert len(server.sent_to("POST", ":generateContent")) == 1 and server.deleted == ["clip1"]


@pytest.mark.parametrize("slow", [replace(GOOD, delay=30), replace(GOOD, drip=0.1)], ids=["late", "a byte at a time"])
def test_an_answer_that_comes_too_slowly_is_asked_for_again(
    server: GeminiServer, video: VideoSpan, slow: Reply
) -> None:
    server.replies = [slow, GOOD]
    started = time.monotonic()
    assert judge(patience=replace(QUICK, request_seconds=0.8)).rate(video, "").rating == 4
    assert 0.8 <= time.monotonic() - started < 5
    assert len(server.requests) == 2


def test_a_rating_takes_no_longer_than_it_may(server: GeminiServer, video: VideoSpan) -> None:
    server.replies = [replace(GOOD, delay=30)]
    started = time.monotonic()
    with pytest.raises(JudgeError, match="it is not done after 1.4 s"):
        judge(patience=replace(QUICK, request_seconds=0.5, total_seconds=1.4, attempts=100)).rate(video, "")
    assert time.monotonic() - started < 4


class Stop(BaseException):
    """What ComfyUI's interrupt is to a judge: nothing that it knows."""


def raise_once(condition: Callable[[], object]) -> Callable[[], None]:
    def abort() -> None:
        if condition():
            raise Stop

    return abort


def test_an_interrupt_ends_a_request_under_way_and_takes_the_clip_back(server: GeminiServer, video: VideoSpan) -> None:
    server.replies = [replace(GOOD, delay=30)]
    abort = raise_once(lambda: server.sent_to("POST", ":generateContent"))
    started = time.monotonic()
    with pytest.raises(Stop):
        judge(abort=abort, **JUDGE_BY_UPLOAD).rate(video, "")
    assert time.monotonic() - started < 5
    assert server.deleted == ["clip1"]


def test_an_interrupt_ends_a_wait(server: GeminiServer, video: VideoSpan) -> None:
    server.replies = [gemini_error(429, "RESOURCE_EXHAUSTED", "slow", **{"Retry-After": "15"})]
    with pytest.raises(Stop):
        judge(abort=raise_once(lambda: server.requests)).rate(video, "")
    assert len(server.requests) == 1


def test_a_server_that_is_not_there_is_said_not_to_be_there(
    server: GeminiServer, video: VideoSpan, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", f"http://127.0.0.1:{port}")
    with pytest.raises(JudgeError, match=r"the server cannot be reached \(ConnectError.*\(3 attempts\)"):
        judge().rate(video, "")


@pytest.mark.parametrize("value", [None, "", "  "])
def test_without_a_key_there_is_no_judge(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(JudgeError, match=r"set the environment variable GEMINI_API_KEY \(or GOOGLE_API_KEY\)"):
        GeminiJudge()


def test_without_its_client_there_is_no_judge(server: GeminiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.genai", None)
    with pytest.raises(JudgeError, match="pip install google-genai"):
        GeminiJudge()


def test_vertex_ai_is_not_asked_even_if_the_environment_says_so(
    server: GeminiServer, video: VideoSpan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    assert judge().rate(video, "").rating == 4


def test_a_judge_can_be_sent_to_another_process_and_is_known_by_its_model_and_rubric(server: GeminiServer) -> None:
    assert judge().name == "gemini-2.5-pro rubric-1" != judge(model="gemini-2.5-flash").name
    assert pickle.loads(pickle.dumps(judge())) == judge()


@pytest.mark.parametrize(
    ("settings", "message"), [({"request_seconds": 0}, "request_seconds is 0"), ({"attempts": 0}, "attempts is 0")]
)
def test_patience_that_makes_no_sense_is_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Patience(**settings)


def test_no_model_is_no_judge(server: GeminiServer) -> None:
    with pytest.raises(ValueError, match="model is empty"):
        GeminiJudge(model=" ")
