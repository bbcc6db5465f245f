"""A prompt schedule as an artist types it: lines that begin with a time."""

from __future__ import annotations

import re
from dataclasses import dataclass

TIME = re.compile(r"(?:(?:(\d+):)?(\d+):(\d{1,2}(?:\.\d+)?)|(\d+(?:\.\d+)?)\s?s)(?=\s|$)")
"""1:02:03, 2:03, 0:07.5, or seconds with their unit: 90s, 7.5 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedPrompt:
    """A prompt and when it begins."""

    seconds: float
    prompt: str


def parse_timed_lines(text: str) -> list[TimedPrompt]:
    """The prompts of lines such as `0:20 the sea at night`, in the order of their times.

    A line without a time goes on with the prompt above it; above the first time it begins at 0:00. Empty lines and
    those that begin with # are passed over.

    Raises:
        ValueError: no prompt, a time without one, seconds or minutes of 60 and more, or a time that is there twice.
    """
    found: list[tuple[float, str]] = []
    for line in (line.strip() for line in text.splitlines()):
        if not line or line.startswith("#"):
            continue
        time = TIME.match(line)
        if time:
            found.append((_seconds(time, line), line[time.end() :].strip()))
        elif found:
            before = found.pop()
            found.append((before[0], f"{before[1]} {line}".strip()))
        else:
            found.append((0.0, line))
    return _checked(found)


def _seconds(time: re.Match[str], line: str) -> float:
    hours, minutes, seconds, alone = time.groups()
    if alone is not None:
        return float(alone)
    if float(seconds) >= 60 or (hours is not None and int(minutes) >= 60):
        raise ValueError(f"the line {line!r} begins with {time.group()}; minutes and seconds go up to 59.")
    return 3600 * int(hours or 0) + 60 * int(minutes) + float(seconds)


def _checked(found: list[tuple[float, str]]) -> list[TimedPrompt]:
    if not found:
        raise ValueError("the schedule is empty. Type lines such as: 0:00 a calm sea")
    prompts = [TimedPrompt(seconds=seconds, prompt=prompt) for seconds, prompt in sorted(found, key=lambda one: one[0])]
    for prompt in prompts:
        if not prompt.prompt:
            raise ValueError(f"nothing is said of what the film shows at {spoken_time(prompt.seconds)}; add a prompt.")
    for first, second in zip(prompts, prompts[1:], strict=False):
        if first.seconds == second.seconds:
            raise ValueError(f"two prompts begin at {spoken_time(first.seconds)}; give each a time of its own.")
    return prompts


def spoken_time(seconds: float) -> str:
    """A time of a film as it is typed: 0:20, 1:02:03, 0:07.5."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    tail = f"{rest:04.1f}" if rest % 1 else f"{int(rest):02}"
    return f"{hours}:{minutes:02}:{tail}" if hours else f"{minutes}:{tail}"
