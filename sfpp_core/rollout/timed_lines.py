"""A prompt schedule as an artist types it: lines that begin with a time."""

from __future__ import annotations

import re
import reprlib
from dataclasses import dataclass
from itertools import pairwise

TIME = re.compile(r"(?:(?:(\d+):)?(\d+):(\d{2}(?:\.\d+)?)|(\d+(?:\.\d+)?)\s?s)(?=\s|$)")
"""1:02:03, 2:03, 0:07.5, or seconds with their unit: 90s, 7.5 s."""
LIKE_A_TIME = re.compile(r"\W*\d+\s*:\s*\d|[^\w\s]+\d+(?:\.\d+)?\s?s\b|\d+(?:\.\d+)?\s?s[^\w\s]")
"""How a line begins whose time was mistyped, such as [0:20], 0:20, or 20s: and a prompt."""
LATEST_SECONDS = 86400.0
"""A day of film."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedPrompt:
    """A prompt and when it begins."""

    seconds: float
    prompt: str


def parse_timed_lines(text: str) -> list[TimedPrompt]:
    """The prompts of lines such as `0:20 the sea at night`.

    Times rise and are all of one form: beside 0:20, "80s synthwave" would be no time. A line without one goes on with
    the prompt above it; above the first time it begins at 0:00. Empty lines and those that begin with # are passed
    over.

    Raises:
        ValueError: no prompt, a time without one, what looks like a time and is none, times of both forms, seconds or
            minutes of 60 and more, more than a day, or a time that is not later than the one before.
    """
    found: list[tuple[float, str]] = []
    first_time: re.Match[str] | None = None
    for line in (line.strip() for line in text.splitlines()):
        if not line or line.startswith("#"):
            continue
        time = TIME.match(line)
        if time:
            first_time = first_time or time
            if _is_in_seconds(time) != _is_in_seconds(first_time):
                raise ValueError(
                    f"the line {_shortened(line)} begins with a time of another form than {first_time.group()}. Write "
                    "all times alike; if it is no time, begin the line with another word."
                )
            found.append((_seconds(time, line), line[time.end() :].strip()))
        elif LIKE_A_TIME.match(line):
            raise ValueError(f"the line {_shortened(line)} begins with no time. Type it as 0:20 or 90s, then a blank.")
        elif found:
            before = found.pop()
            found.append((before[0], f"{before[1]} {line}".strip()))
        else:
            found.append((0.0, line))
    return _checked(found)


def _is_in_seconds(time: re.Match[str]) -> bool:
    return time.groups()[-1] is not None


def _seconds(time: re.Match[str], line: str) -> float:
    hours, minutes, seconds, alone = time.groups()
    if alone is None and (float(seconds) >= 60 or (hours is not None and int(minutes) >= 60)):
        raise ValueError(f"the line {_shortened(line)} begins with {time.group()}; minutes and seconds go up to 59.")
    total = float(alone) if alone is not None else 3600 * float(hours or 0) + 60 * float(minutes) + float(seconds)
    if total > LATEST_SECONDS:
        raise ValueError(f"the line {_shortened(line)} begins after more than a day of film.")
    return total


def _shortened(line: str) -> str:
    return reprlib.repr(line)


def _checked(found: list[tuple[float, str]]) -> list[TimedPrompt]:
    if not found:
        raise ValueError("the schedule is empty. Type lines such as: 0:00 a calm sea")
    for seconds, prompt in found:
        if not prompt:
            raise ValueError(f"nothing is said of what the film shows at {spoken_time(seconds)}; add a prompt.")
    for (first, _), (second, _) in pairwise(found):
        if first == second:
            raise ValueError(f"two prompts begin at {spoken_time(first)}; give each a time of its own.")
        if first > second:
            raise ValueError(f"{spoken_time(second)} comes after {spoken_time(first)}; sort the lines by their times.")
    return [TimedPrompt(seconds=seconds, prompt=prompt) for seconds, prompt in found]


def spoken_time(seconds: float) -> str:
    """A time of a film as it is typed: 0:20, 1:02:03, 0:07.5."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    tail = f"{rest:04.1f}" if rest % 1 else f"{int(rest):02}"
    return f"{hours}:{minutes:02}:{tail}" if hours else f"{minutes}:{tail}"
