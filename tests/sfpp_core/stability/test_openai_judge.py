"""The OpenAI-compatible judge, with the real client, against a server that speaks the protocol and misbehaves."""

from __future__ import annotations

import base64
import io
import pickle
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sfpp_core.stability.judges.openai_compatible import OpenAICompatibleJudge, stills
from sfpp_core.stability.judges.remote import Patience, never
from sfpp_core.stability.score import JudgeError
from sfpp_core.video.span import VideoSpan
from tests.helpers.judge_servers import ChatServer, Reply, chat_error, chat_says, rating_json

GOOD = chat_says(rating_json(4))
QUICK = Patience(request_seconds=5, total_seconds=20, attempts=3, backoff_seconds=0.02)
VARIABLES = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "SFPP_JUDGE_BASE_URL")


def brightening(frames: int, fps: float = 16) -> VideoSpan:
    """Each frame is of one grey, and each brighter than the one before: a picture tells which it is."""
    ramp = torch.linspace(0, 1, frames).view(-1, 1, 1, 1)
    return VideoSpan.from_images(ramp.expand(frames, 64, 96, 3).contiguous(), fps=fps)


@pytest.fixture(scope="module")
def video() -> VideoSpan:
    return brightening(48)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    server = ChatServer()
    server.replies = [GOOD]
    with server.running() as url:
        monkeypatch.setenv("SFPP_JUDGE_BASE_URL", f"{url}/v1")
        yield server


def judge(**settings: Any) -> OpenAICompatibleJudge:
    return OpenAICompatibleJudge(**{"model": "local-vision", "patience": QUICK, **settings})


def parts(request: Any) -> list[dict[str, Any]]:
    return request.json["messages"][1]["content"]


def brightness(jpeg: bytes) -> float:
    return float(np.asarray(Image.open(io.BytesIO(jpeg))).mean() / 255)


def test_stills_are_spread_evenly_from_the_first_frame_to_the_last() -> None:
    pictures = stills(brightening(160), 11, 64, never)
    times = [seconds for seconds, _ in pictures]
    assert times == pytest.approx([*range(10), 159 / 16], abs=1 / 16 + 1e-6)
    shown = [brightness(jpeg) for _, jpeg in pictures]
    assert shown == pytest.approx([seconds * 16 / 159 for seconds in times], abs=0.02)


def test_stills_of_a_part_are_of_that_part_with_the_times_of_the_whole() -> None:
    pictures = stills(brightening(160).segment(4, 6), 5, 64, never)
    assert [seconds for seconds, _ in pictures] == pytest.approx([4, 4.5, 5, 5.5, 6 - 1 / 16], abs=1e-6)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_video_with_few_frames_shows_each_once(frames: int) -> None:
    assert len(stills(brightening(frames), 16, 64, never)) == frames


def test_stills_are_scaled_down_but_never_up() -> None:
    large, small = (stills(brightening(2), 2, size, never)[0][1] for size in (48, 1000))
    assert Image.open(io.BytesIO(large)).size == (48, 32)
    assert Image.open(io.BytesIO(small)).size == (96, 64)


def test_the_model_is_shown_pictures_with_their_times_and_asked_by_the_rubric(
    server: ChatServer, video: VideoSpan
) -> None:
    rating = judge(num_stills=4).rate(video, "a sunrise")
    assert (rating.rating, rating.explanation) == (4, "Balanced to the end.")
    (request,) = server.requests
    assert request.json["model"] == "local-vision"
    intro, *pictures, question = parts(request)
    assert intro["text"].startswith("4 pictures")
    assert [part["text"] for part in pictures[::2]] == ["0:00.0", "0:01.0", "0:02.0", "0:02.9"]
    shown = [
        base64.b64decode(part["image_url"]["url"].removeprefix("data:image/jpeg;base64,")) for part in pictures[1::2]
    ]
    assert [brightness(jpeg) for jpeg in shown] == pytest.approx([0, 16 / 47, 32 / 47, 1], abs=0.02)
    assert "a sunrise" in question["text"]
    schema = request.json["response_format"]["json_schema"]
    assert schema["strict"] is True and list(schema["schema"]["properties"]) == ["explanation", "rating"]


def test_a_server_of_ones_own_needs_no_key_and_others_get_it(
    server: ChatServer, video: VideoSpan, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge().rate(video, "")
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-for-tests")
    judge().rate(video, "")
    assert [request.headers["authorization"] for request in server.requests] == [
        "Bearer none",
        "Bearer a-key-for-tests",
    ]


def test_the_address_of_the_judge_goes_before_that_of_other_programs(
    server: ChatServer, video: VideoSpan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert judge().rate(video, "").rating == 4
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    monkeypatch.delenv("SFPP_JUDGE_BASE_URL")
    assert judge().rate(video, "").rating == 4


@pytest.mark.parametrize(
    "refusal",
    [
        chat_error(400, "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model."),
        chat_error(422, "[{'loc': ['body', 'response_format', 'type'], 'msg': 'extra fields not permitted'}]"),
        chat_error(500, "structured output is not implemented"),
    ],
)
def test_a_server_without_schemas_is_asked_in_words(server: ChatServer, video: VideoSpan, refusal: Reply) -> None:
    server.replies = [refusal, chat_says("Bad JSON, sorry"), chat_says(f"Of course:\n```json\n{rating_json(3)}\n```")]
    assert judge().rate(video, "").rating == 3
    assert ["response_format" in request.json for request in server.requests] == [True, False, False]


def test_a_server_that_cannot_see_is_not_asked_twice(server: ChatServer, video: VideoSpan) -> None:
    server.replies = [chat_error(400, "this model does not support image input"), GOOD]
    with pytest.raises(JudgeError, match="could not rate .*400: this model does not support image input"):
        judge().rate(video, "")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "trouble",
    [
        chat_error(500, "oops"),
        Reply(status=503, body=b"<html>busy</html>", headers={"Content-Type": "text/html"}),
        Reply(hang_up=True),
        Reply(body=b'{"choices": [{'),
        Reply(body=b""),
    ],
    ids=["500", "a proxy's 503", "no answer", "broken JSON", "nothing"],
)
def test_trouble_that_may_pass_is_waited_out(server: ChatServer, video: VideoSpan, trouble: Reply) -> None:
    server.replies = [trouble, trouble, GOOD]
    assert judge().rate(video, "").rating == 4
    assert len(server.requests) == 3


def test_a_busy_server_is_left_alone_as_long_as_it_asks(server: ChatServer, video: VideoSpan) -> None:
    server.replies = [chat_error(429, "slow down", **{"Retry-After": "1"}), GOOD]
    assert judge().rate(video, "").rating == 4
    first, second = server.requests
    assert 1 <= second.time - first.time < 4


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (chat_says(None, refusal="I cannot judge people."), "I cannot judge people"),
        (chat_says("", end="content_filter"), "content_filter"),
    ],
)
def test_a_refusal_is_final_and_its_reason_told(
    server: ChatServer, video: VideoSpan, answer: Reply, reason: str
) -> None:
    server.replies = [answer, GOOD]
    with pytest.raises(JudgeError, match=f"it refused .{reason}.*offline judge"):
        judge().rate(video, "")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        chat_says(None),
        chat_says(rating_json("great")),
        Reply(body={"choices": []}),
        Reply(body={"choices": "none of the right kind"}),
        Reply(body={"choices": [{"message": "none of the right kind"}]}),
        Reply(body={"error": "of a kind that comes with status 200"}),
        Reply(body=b"<html>welcome</html>", headers={"Content-Type": "text/html"}),
    ],
    ids=[
        "nothing",
        "no number",
        "no choices",
        "choices of another kind",
        "a message of another kind",
        "no completion",
        "a web page",
    ],
)
def test_an_answer_that_is_no_rating_is_asked_for_again_and_then_given_up(
    server: ChatServer, video: VideoSpan, answer: Reply
) -> None:
    server.replies = [answer, GOOD]
    assert judge().rate(video, "").rating == 4
    assert "could not be used" in parts(server.requests[1])[-1]["text"]
    server.replies = [answer]
    with pytest.raises(JudgeError, match="the answers cannot be used"):
        judge().rate(video, "")
    assert len(server.requests) == 2 + QUICK.asks


def test_an_answer_that_comes_too_slowly_is_asked_for_again(server: ChatServer, video: VideoSpan) -> None:
    server.replies = [replace(GOOD, drip=0.1), GOOD]
    started = time.monotonic()
    assert judge(patience=replace(QUICK, request_seconds=0.8)).rate(video, "").rating == 4
    assert time.monotonic() - started < 5 and len(server.requests) == 2


class Stop(BaseException):
    """What ComfyUI's interrupt is to a judge: nothing that it knows."""


def test_an_interrupt_ends_the_reading_of_a_video(server: ChatServer, video: VideoSpan) -> None:
    frames_left = iter(range(5))

    def abort() -> None:
        if next(frames_left, None) is None:
            raise Stop

    with pytest.raises(Stop):
        judge(abort=abort).rate(video, "")
    assert not server.requests


def test_an_interrupt_ends_a_request_under_way(server: ChatServer, video: VideoSpan) -> None:
    def abort() -> None:
        if server.requests:
            raise Stop

    server.replies = [replace(GOOD, delay=30)]
    started = time.monotonic()
    with pytest.raises(Stop):
        judge(abort=abort).rate(video, "")
    assert time.monotonic() - started < 5


def test_without_a_server_or_a_client_there_is_no_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(JudgeError, match="set the environment variable SFPP_JUDGE_BASE_URL .*or OPENAI_API_KEY"):
        judge()
    monkeypatch.setenv("SFPP_JUDGE_BASE_URL", "localhost:8000/v1")
    with pytest.raises(JudgeError, match="must start with http:// or https://"):
        judge()
    monkeypatch.setenv("SFPP_JUDGE_BASE_URL", "http://localhost:8000/v1")
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(JudgeError, match="pip install openai"):
        judge()


@pytest.mark.parametrize(
    ("settings", "message"), [({"model": ""}, "model"), ({"num_stills": 1}, "num_stills is 1"), ({"still_px": 8}, "8")]
)
def test_settings_that_make_no_sense_are_refused(server: ChatServer, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judge(**settings)


def test_a_judge_is_known_by_all_that_changes_its_ratings_and_can_be_sent_to_another_process(
    server: ChatServer,
) -> None:
    variants = [judge(), judge(model="other"), judge(num_stills=8), judge(still_px=512)]
    assert len({variant.name for variant in variants}) == len(variants)
    assert pickle.loads(pickle.dumps(judge())) == judge()
