"""What was found out about each of many videos, one JSON object a line, in a file that a killed run goes on with."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from ...files import replacing
from ..score import SegmentRating, VisualStability

# How every line begins, by which one that was cut short is told from the file of somebody else.
BEGINNING: Final = b'{"path": '


class ResultFileError(ValueError):
    """A file that is no list of results; says which line is wrong and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A video that is to be rated, and how. Two results answer the same question if these are equal."""

    path: str
    """As it was asked for, so that a relative path is found again from the same folder."""
    prompt: str
    judge: str
    segment_seconds: float | None
    """None: the video as a whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoResult:
    """The ratings of a video, or why there are none."""

    question: Question
    fingerprint: str | None = None
    """Of the file's content when it was rated."""
    stability: VisualStability | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        if (self.stability is None) == (self.error is None):
            raise ValueError(f"the result of {self.question.path} has to be either ratings or an error.")
        if self.stability is not None and self.fingerprint is None:
            raise ValueError(f"the result of {self.question.path} has ratings, but not of which content.")

    def to_json(self) -> str:
        """Return the result as one line of JSON.

        `score` (0 to 100) and `explanation` follow from the segments and are there for readers; `segments` have
        `start`, `end` (seconds), `rating` (0 to 5) and `explanation`. With an `error`, `score` is null.
        """
        question = asdict(self.question)
        if self.stability is None:
            entries = {"path": question.pop("path"), "score": None, "error": self.error, **question}
        else:
            entries = {
                "path": question.pop("path"),
                "score": self.stability.score,
                **question,
                "fingerprint": self.fingerprint,
                "explanation": self.stability.explanation,
                "segments": [asdict(segment) for segment in self.stability.segments],
            }
        return json.dumps(entries, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> VideoResult:
        """The result that `to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: it is none.
        """
        entries: dict[str, Any] = json.loads(line)
        names = ("path", "prompt", "judge", "segment_seconds")
        question = Question(**{name: entries[name] for name in names})
        if "error" in entries:
            return cls(question=question, error=entries["error"])
        segments = tuple(SegmentRating(**segment) for segment in entries["segments"])
        stability = VisualStability(judge=question.judge, prompt=question.prompt, segments=segments)
        return cls(question=question, fingerprint=entries["fingerprint"], stability=stability)


class ResultFile:
    """A context manager that appends results to a JSONL file, each on the disk at once.

    It may hold the answers to any questions. A question that is answered again, after an error say, gets a new line;
    the old one is removed when the file is closed or, should the program die before that, when it is next opened. So
    is a last line that a dying program has not written to its end.

    Raises:
        ResultFileError: the file holds something else.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lines: dict[Question, str] = {}
        self._superseded = False

    def __enter__(self) -> ResultFile:
        # Opened for writing first: a file that cannot be written must show before anything is rated.
        with self.path.open("ab"):
            content = self.path.read_bytes()
        lines = content.split(b"\n")
        for number, line in enumerate(lines, start=1):
            self._take(line, number, is_last=number == len(lines))
        self._superseded |= content != self._content()
        self._tidy()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tidy()

    def answer(self, question: Question) -> VideoResult | None:
        """The newest result of a question, unless it is an error."""
        line = self._lines.get(question)
        result = VideoResult.from_json(line) if line else None
        return result if result and result.stability else None

    def append(self, result: VideoResult) -> None:
        """Write a result; it is on the disk when this returns."""
        self._superseded |= result.question in self._lines
        self._lines[result.question] = result.to_json()
        with self.path.open("ab") as file:
            file.write(self._lines[result.question].encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _take(self, line: bytes, number: int, *, is_last: bool) -> None:
        """Remember a line. One that is not whole is let go if it is the last and looks like the beginning of one."""
        if not line:
            return
        try:
            text = line.decode()
            self._lines[VideoResult.from_json(text).question] = text
        except (ValueError, KeyError, TypeError) as error:
            is_ours = line.startswith(BEGINNING) or BEGINNING.startswith(line)
            if is_last and is_ours and isinstance(error, json.JSONDecodeError):
                return
            raise ResultFileError(
                f"{self.path.name} line {number} is no result of rating a video; name another file."
            ) from error

    def _content(self) -> bytes:
        return "".join(f"{line}\n" for line in self._lines.values()).encode()

    def _tidy(self) -> None:
        if self._superseded:
            with replacing(self.path) as temporary:
                temporary.write_bytes(self._content())
            self._superseded = False
