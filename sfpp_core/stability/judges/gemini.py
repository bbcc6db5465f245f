"""The judge of the paper: Google's Gemini, which watches the video itself (arXiv 2510.02283, section 4)."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ...video.span import VideoSpan
from ..score import JudgeError, Rating
from .remote import (
    GEMINI_KEYS,
    Failure,
    Line,
    Patience,
    client_library,
    first_key,
    guard_client_logs,
    never,
    retry_after,
    shortened,
    transport_errors,
)
from .rubric import ANSWER_SCHEMA, INSTRUCTIONS, RUBRIC_VERSION, UnusableAnswer, question

if TYPE_CHECKING:
    from google.genai import Client
    from google.genai.types import File, GenerateContentResponse, Part

logger = logging.getLogger(__name__)

DEFAULT_MODEL: Final = "gemini-2.5-pro"

# A request with everything in it may have 20 MB, and base64 makes 4 bytes of 3; the rest is for the text.
INLINE_BYTES: Final = 14_000_000

# Releases of the client differ in the version that they take unasked, and this is the one with everything used here.
API_VERSION: Final = "v1beta"

VIDEO_TYPE: Final = "video/mp4"

# Ends that asking again may change: the answer grew too long, or the server names no reason. Any other but STOP is a
# refusal.
PASSING_ENDS: Final = ("MAX_TOKENS", "OTHER", "FINISH_REASON_UNSPECIFIED")

# google.protobuf.Duration in JSON: seconds with up to nine digits after the point.
DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)s")


@dataclass(frozen=True, kw_only=True, slots=True)
class GeminiJudge:
    """Rates videos with Gemini, by whole numbers. The key comes from GOOGLE_API_KEY or GEMINI_API_KEY.

    The clip goes into the request, or through the Files API when it is too large, and is deleted there afterwards.
    Google's client looks at one frame a second. It heeds GOOGLE_GEMINI_BASE_URL.

    Raises:
        JudgeError: the package google-genai is not installed, or there is no key.
    """

    model: str = DEFAULT_MODEL
    patience: Patience = Patience()
    inline_bytes: int = INLINE_BYTES
    """Clips up to this size, in bytes, go into the request."""
    abort: Callable[[], None] = field(default=never, repr=False, compare=False)
    """Called about ten times a second while waiting; whatever it raises ends the rating."""

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise ValueError(f"model is empty; give the name of a Gemini model, e.g. {DEFAULT_MODEL}.")
        client_library("google.genai", "google-genai")
        _key()

    @property
    def name(self) -> str:
        """The model and the version of the rubric."""
        return f"{self.model} rubric-{RUBRIC_VERSION}"

    def rate(self, video: VideoSpan, prompt: str) -> Rating:
        """Let the model watch `video`, which `prompt` asked for, and rate it from 0 to 5.

        Raises:
            JudgeError: no rating could be had: no key, a refusal, no usable answer, or no answer in time.
        """
        line = Line(f"Gemini ({self.model}) could not rate {video.name}", self.patience, _diagnose, self.abort)
        client = _client(self.patience)
        try:
            with self._clip(client, line, video) as clip:
                return line.rating(lambda text: self._ask(client, line, clip, text), question(video, prompt))
        finally:
            client.close()

    def _ask(self, client: Client, line: Line, clip: Part, text: str) -> str:
        from google.genai import types

        content = types.Content(role="user", parts=[clip, types.Part.from_text(text=text)])
        config = types.GenerateContentConfig(
            system_instruction=INSTRUCTIONS,
            # Ratings are kept and compared, so they should be as repeatable as the model can be.
            temperature=0.0,
            response_mime_type="application/json",
            # There are no functions to call; the client logs a line a request about them unless it is told.
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
            # The explanation comes first only if the order is asked for.
            response_json_schema={**ANSWER_SCHEMA, "propertyOrdering": list(ANSWER_SCHEMA["properties"])},
        )
        answer = line.request(
            lambda: client.models.generate_content(model=self.model, contents=[content], config=config)
        )
        refusal = _refusal(answer)
        if refusal:
            raise line.refused(refusal)
        return _text(answer)

    @contextmanager
    def _clip(self, client: Client, line: Line, video: VideoSpan) -> Iterator[Part]:
        """The video as a part of a request; one that is uploaded is deleted at the end, however it comes."""
        from google.genai import types

        data = video.mp4()
        if len(data) <= self.inline_bytes:
            yield types.Part.from_bytes(data=data, mime_type=VIDEO_TYPE)
            return
        config = types.UploadFileConfig(mime_type=VIDEO_TYPE)
        file = line.request(lambda: client.files.upload(file=io.BytesIO(data), config=config), is_upload=True)
        try:
            self._await_active(client, line, file)
            yield types.Part.from_uri(file_uri=file.uri, mime_type=VIDEO_TYPE)
        finally:
            failure = line.clean_up(lambda: client.files.delete(name=file.name))
            if failure:
                logger.warning("an uploaded clip was not deleted (%s); Google does so within 48 hours", failure.message)

    def _await_active(self, client: Client, line: Line, file: File) -> None:
        """Wait until the server has taken an uploaded file apart and a model can watch it."""
        from google.genai.types import FileState

        while file.state != FileState.ACTIVE:
            if file.state == FileState.FAILED:
                reason = file.error.message if file.error else None
                raise line.error(f"the server cannot read the video ({reason or 'it gives no reason'})")
            line.wait(self.patience.poll_seconds)
            file = line.request(partial(client.files.get, name=file.name))


def _key() -> str:
    key = first_key(GEMINI_KEYS)
    if key is None:
        raise JudgeError(
            "the Gemini judge needs an API key: set the environment variable GEMINI_API_KEY (or GOOGLE_API_KEY) before "
            "starting the program. Without a key, take the offline judge."
        )
    return key


def _client(patience: Patience) -> Client:
    genai = client_library("google.genai", "google-genai")
    guard_client_logs()
    options = genai.types.HttpOptions(api_version=API_VERSION, timeout=round(1000 * patience.request_seconds))
    # Not Vertex AI, whatever the environment says: it has no Files API, and other credentials.
    return genai.Client(vertexai=False, api_key=_key(), http_options=options)


def _text(answer: GenerateContentResponse) -> str:
    """Return what the model wrote, without its thoughts."""
    if not answer.candidates:
        raise UnusableAnswer("It holds no text.")
    content = answer.candidates[0].content
    parts = (content.parts if content else None) or []
    return "".join(part.text for part in parts if part.text and not part.thought)


def _refusal(answer: GenerateContentResponse) -> str | None:
    """Return why the question or the answer was blocked, in the server's word (SAFETY, ...); None if it was not."""
    feedback = answer.prompt_feedback
    if feedback and feedback.block_reason:
        message = f": {shortened(feedback.block_reason_message)}" if feedback.block_reason_message else ""
        return f"the request was blocked, {feedback.block_reason.value}{message}"
    reason = answer.candidates[0].finish_reason if answer.candidates else None
    if reason is None or reason.value in ("STOP", *PASSING_ENDS):
        return None
    message = answer.candidates[0].finish_message
    return f"the answer was blocked, {reason.value}{f': {shortened(message)}' if message else ''}"


def _diagnose(error: Exception) -> Failure:
    from google.genai import errors

    if isinstance(error, errors.APIError):
        headers = getattr(error.response, "headers", None) or {}
        return Failure.of_status(
            error.code,
            f"{error.status}: {error.message}" if error.message else str(error.details),
            retry_after=max(retry_after(headers), _retry_info(error.details)),
            keys=" or ".join(GEMINI_KEYS),
            about_key="API_KEY_INVALID" in str(error.details),
        )
    if isinstance(error, transport_errors()):
        return Failure.of_connection(error)
    # An answer that is no JSON, has another shape, or an upload that is not acknowledged.
    if isinstance(error, ValueError | KeyError):
        return Failure.of_unreadable_answer(error)
    return Failure.of_anything_else(error)


def _retry_info(details: Any) -> float:
    """Seconds to wait by the google.rpc.RetryInfo in an error's details; 0 without one."""
    error = details.get("error", details) if isinstance(details, Mapping) else {}
    for detail in (error.get("details") or []) if isinstance(error, Mapping) else []:
        if isinstance(detail, Mapping) and str(detail.get("@type", "")).endswith("google.rpc.RetryInfo"):
            found = DURATION.fullmatch(str(detail.get("retryDelay", "")))
            return float(found[1]) if found else 0.0
    return 0.0
