"""A judge behind any server that speaks OpenAI's chat completions and can see pictures: OpenAI, vLLM, Ollama, ..."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from ...video.span import VideoSpan
from ..score import JudgeError, Rating, clock
from .remote import (
    BASE_URLS,
    OPENAI_KEY,
    Failure,
    Line,
    Patience,
    client_library,
    first_key,
    first_set,
    guard_client_logs,
    never,
    retry_after,
    transport_errors,
)
from .rubric import ANSWER_SCHEMA, INSTRUCTIONS, RUBRIC_VERSION, UnusableAnswer, question

if TYPE_CHECKING:
    import openai
    from openai import OpenAI
    from openai.types.chat import ChatCompletion

JPEG_QUALITY: Final = 90


def stills(video: VideoSpan, count: int, max_px: int, abort: Callable[[], None]) -> list[tuple[float, bytes]]:
    """Up to `count` pictures, evenly over the video with its first and its last frame: time in seconds and JPEG.

    A video with fewer frames gives all. Times count from the start of the whole video. The longer side of a picture is
    at most `max_px` pixels. One picture is held at full size, however long the video is.
    `abort` is called at every frame that is read, and may raise to stop.

    Raises:
        ValueError: `count` is below 2.
        VideoFileError: the file is damaged or cut short.
    """
    if count < 2:
        raise ValueError(f"count is {count}; a video needs at least its first and its last frame.")
    step = video.duration / (count - 1)
    picked: list[tuple[float, bytes]] = []
    last: tuple[float, np.ndarray] | None = None
    due = video.start
    for time, frame in video.frames():
        abort()
        if time >= due and len(picked) < count - 1:
            picked.append((time, _jpeg(frame, max_px)))
            last = None
            # Counted from the frame and not from `due`: after a gap in time the frames do not come in a row.
            due = video.start + (math.floor((time - video.start) / step) + 1) * step
        else:
            last = (time, frame)
    if last is not None:
        picked.append((last[0], _jpeg(last[1], max_px)))
    return picked


def _jpeg(frame: np.ndarray, max_px: int) -> bytes:
    picture = Image.fromarray(frame)
    picture.thumbnail((max_px, max_px))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


DEFAULT_MODEL: Final = "gpt-4o"

EXAMPLE_URL: Final = "http://localhost:8000/v1"

# The client insists on a key, servers on one's own machine do not.
NO_KEY: Final = "none"

ANSWER_FORMAT: Final = {
    "type": "json_schema",
    "json_schema": {"name": "rating", "strict": True, "schema": ANSWER_SCHEMA},
}

# How servers name what they do not support when they refuse a request for its `response_format`.
REFUSED_FORMAT: Final = re.compile(r"response.?format|json.?schema|structured.?output|grammar|guided", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenAICompatibleJudge:
    """Rates videos with a vision model that is shown pictures from them, by whole numbers.

    The server's address comes from SFPP_JUDGE_BASE_URL or OPENAI_BASE_URL and is OpenAI's own if neither is set; the
    key from OPENAI_API_KEY, which servers of one's own may do without. Ratings are remembered under the name of the
    model: two servers should not call different models by the same name.

    Raises:
        JudgeError: the package openai is not installed, or there is neither an address nor a key.
    """

    model: str = DEFAULT_MODEL
    num_stills: int = 16
    """How many pictures of a clip are sent, evenly over its time."""
    still_px: int = 768
    """The longer side of a picture, in pixels; larger ones are scaled down."""
    patience: Patience = Patience()
    abort: Callable[[], None] = field(default=never, repr=False, compare=False)
    """Called about ten times a second while waiting; whatever it raises ends the rating."""

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise ValueError("model is empty; give the name by which the server knows a vision model.")
        if self.num_stills < 2:
            raise ValueError(f"num_stills is {self.num_stills}; a judge must see at least 2 pictures. Try 16.")
        if self.still_px < 16:
            raise ValueError(f"still_px is {self.still_px}; nothing can be seen below 16 pixels. Try 768.")
        client_library("openai", "openai")
        _check_environment()

    @property
    def name(self) -> str:
        """The model, what it is shown, and the version of the rubric."""
        return f"{self.model} {self.num_stills}x{self.still_px}px rubric-{RUBRIC_VERSION}"

    def rate(self, video: VideoSpan, prompt: str) -> Rating:
        """Show the model pictures of `video`, which `prompt` asked for, and let it rate the video from 0 to 5.

        Raises:
            JudgeError: no rating could be had: no key, a refusal, no usable answer, or no answer in time.
        """
        line = Line(f"{self.model} could not rate {video.name}", self.patience, _diagnose, self.abort)
        pictures = _picture_parts(stills(video, self.num_stills, self.still_px, self.abort))
        client = _client(self.patience)
        try:
            conversation = _Conversation(client=client, line=line, model=self.model, pictures=pictures)
            return line.rating(conversation.ask, question(video, prompt))
        finally:
            client.close()


@dataclass(kw_only=True, slots=True)
class _Conversation:
    """The questions about one video; what the server turned out not to support is not tried again."""

    client: OpenAI
    line: Line
    model: str
    pictures: list[dict[str, Any]]
    knows_schemas: bool = True

    def ask(self, text: str) -> str:
        """Return what the model wrote."""
        answer = self._send(text)
        if answer is None:
            self.knows_schemas = False
            answer = self._send(text)
        # The client takes any JSON for a completion, and what is no JSON for a text.
        choices = getattr(answer, "choices", None)
        choice = choices[0] if isinstance(choices, list) and choices else None
        message, end = getattr(choice, "message", None), getattr(choice, "finish_reason", None)
        refusal = getattr(message, "refusal", None) or (end if end == "content_filter" else None)
        if refusal:
            raise self.line.refused(str(refusal))
        content = getattr(message, "content", None)
        if not isinstance(content, str):
            raise UnusableAnswer("It holds no text.")
        return content

    def _send(self, text: str) -> ChatCompletion | None:
        """The server's answer; None if it refuses to be given a schema."""
        from openai import APIStatusError

        messages = [
            {"role": "system", "content": INSTRUCTIONS},
            {"role": "user", "content": [*self.pictures, {"type": "text", "text": text}]},
        ]
        options = {"response_format": ANSWER_FORMAT} if self.knows_schemas else {}

        def send() -> ChatCompletion | None:
            try:
                return self.client.chat.completions.create(model=self.model, messages=messages, **options)
            except APIStatusError as error:
                if options and REFUSED_FORMAT.search(str(error)):
                    return None
                raise

        return self.line.request(send)


def _picture_parts(pictures: list[tuple[float, bytes]]) -> list[dict[str, Any]]:
    """The pictures as parts of a message, each behind its time."""
    intro = f"{len(pictures)} pictures from the clip in their order, each after its time (minutes:seconds):"
    parts: list[dict[str, Any]] = [{"type": "text", "text": intro}]
    for seconds, jpeg in pictures:
        url = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
        parts += [{"type": "text", "text": clock(seconds)}, {"type": "image_url", "image_url": {"url": url}}]
    return parts


def _check_environment() -> None:
    address = first_set(BASE_URLS)
    if address is None and first_key((OPENAI_KEY,)) is None:
        raise JudgeError(
            f"the OpenAI-compatible judge needs a server: set the environment variable {BASE_URLS[0]} to its address "
            f"({EXAMPLE_URL}, say), or {OPENAI_KEY} to use OpenAI's own, before starting the program. "
            "Without either, take the offline judge."
        )
    # The address itself may hold a password, so that the message must do without.
    if address is not None and not address.startswith(("http://", "https://")):
        raise JudgeError(
            f"the address in {' or '.join(BASE_URLS)} must start with http:// or https://, as {EXAMPLE_URL} does."
        )


def _client(patience: Patience) -> OpenAI:
    openai = client_library("openai", "openai")
    guard_client_logs()
    _check_environment()
    return openai.OpenAI(
        api_key=first_key((OPENAI_KEY,)) or NO_KEY,
        base_url=first_set(BASE_URLS),
        timeout=patience.request_seconds,
        max_retries=0,
    )


def _diagnose(error: Exception) -> Failure:
    import openai

    if isinstance(error, openai.APIStatusError):
        return Failure.of_status(
            error.status_code,
            _server_words(error),
            retry_after=retry_after(error.response.headers),
            keys=OPENAI_KEY,
        )
    if isinstance(error, openai.APIConnectionError):
        return Failure.of_connection(error.__cause__ if isinstance(error.__cause__, Exception) else error)
    if isinstance(error, transport_errors()):
        return Failure.of_connection(error)
    # An answer that is no JSON, or has another shape.
    if isinstance(error, openai.APIResponseValidationError | ValueError):
        return Failure.of_unreadable_answer(error)
    return Failure.of_anything_else(error)


def _server_words(error: openai.APIStatusError) -> str:
    """The message in an error's body, or the body."""
    body = error.body
    words = body.get("message") if isinstance(body, Mapping) else None
    return str(words or body or "")
