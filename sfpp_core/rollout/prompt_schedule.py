"""Prompt schedules: prompts with the times from which chunks follow them."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ..wan.config import WAN21
from .state import RolloutState

TIME = re.compile(r"(?:(?:(\d+):)?(\d+):(\d{2}(?:\.\d+)?)|(\d+(?:\.\d+)?)\s?s)(?=\s|$)")
"""1:02:03, 2:03, 0:07.5, or seconds with their unit: 90s, 7.5 s."""
NUMBER_FIRST = re.compile(r"[\W_]*(?:\u7b2c\s*)?(?P<number>\d[^\w\s]*(?:\d[^\w\s]*)*)(?P<glued>[^\W\d_]*)")
"""A line that begins with a number, in any script, and the letters right behind it; U+7B2C makes a Chinese ordinal."""
NUMERAL_FIRST = re.compile(
    r"[\W_]*\u7b2c?[\u3007\u96f6\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d\u5341\u767e\u4e24]+\s*"
    r"(?:\u79d2|\u5206|\u5c0f?[\u65f6\u6642])"
)
"""The same in Chinese numerals, with the sign for second, minute or hour behind them."""
UNITS = frozenset(
    "s sec secs second seconds m min mins minute minutes h hr hrs hour hours ms f fr frame frames".split()
)
LATEST_SECONDS = 86400.0
"""A day of video."""


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
        elif _looks_like_a_time(line):
            raise ValueError(
                f"the line {_shortened(line)} begins with a number that is no time. Type a time as 0:20 or 90s and a "
                "blank (frame 320 of 16 a second is 0:20); if none is meant, begin the line with another word."
            )
        elif found:
            before = found.pop()
            found.append((before[0], f"{before[1]} {line}".strip()))
        else:
            found.append((0.0, line))
    return _checked(found)


def _looks_like_a_time(line: str) -> bool:
    """Return whether a line without a time begins with a number, other than in a word such as 3D, 8k or 1girl."""
    if NUMERAL_FIRST.match(line):
        return True
    found = NUMBER_FIRST.match(line)
    if found is None:
        return False
    is_word = found["number"].isdecimal() and found["glued"].isascii() and found["glued"].lower() not in UNITS
    return not (is_word and found["glued"])


def _is_in_seconds(time: re.Match[str]) -> bool:
    return time.groups()[-1] is not None


def _seconds(time: re.Match[str], line: str) -> float:
    hours, minutes, seconds, alone = time.groups()
    if alone is None and (float(seconds) >= 60 or (hours is not None and int(minutes) >= 60)):
        raise ValueError(f"the line {_shortened(line)} begins with {time.group()}; minutes and seconds go up to 59.")
    total = float(alone) if alone is not None else 3600 * float(hours or 0) + 60 * float(minutes) + float(seconds)
    if total > LATEST_SECONDS:
        raise ValueError(f"the line {_shortened(line)} begins after more than a day of video.")
    return total


def _shortened(line: str) -> str:
    return reprlib.repr(line)


def _checked(found: list[tuple[float, str]]) -> list[TimedPrompt]:
    if not found:
        raise ValueError("the schedule is empty. Type lines such as: 0:00 a calm sea")
    for seconds, prompt in found:
        if not prompt:
            raise ValueError(f"nothing is said of what the video shows at {spoken_time(seconds)}; add a prompt.")
    for (first, _), (second, _) in pairwise(found):
        if first == second:
            raise ValueError(f"two prompts begin at {spoken_time(first)}; give each a time of its own.")
        if first > second:
            raise ValueError(f"{spoken_time(second)} comes after {spoken_time(first)}; sort the lines by their times.")
    return [TimedPrompt(seconds=seconds, prompt=prompt) for seconds, prompt in found]


def spoken_time(seconds: float) -> str:
    """A time of a video as it is typed: 0:20, 1:02:03, 0:07.5."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    tail = f"{rest:04.1f}" if rest % 1 else f"{int(rest):02}"
    return f"{hours}:{minutes:02}:{tail}" if hours else f"{minutes}:{tail}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScheduledPrompt:
    """A prompt and the moment from which on it is followed."""

    text: Tensor
    """[1, L, text_dim]."""
    seconds: float = 0.0
    """Of the whole video, its given start included."""
    crossfade: float = 0.0
    """Seconds over which the text before gives way to this one; 0 changes at once."""
    recache: bool = False
    """Whether the past is re-encoded under this text once it is followed alone; see `Rollout.set_prompt`."""

    def __post_init__(self) -> None:
        for name in ("seconds", "crossfade"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value:g}; it is a number of seconds, 0 or more.")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ActivePrompt:
    """The prompt embeds that a chunk follows."""

    text: Tensor
    recache: bool


class PromptSchedule:
    """Prompts and the times from which they are followed, switched at the borders of chunks.

    A prompt is active for chunks whose middle lies at its time or later: it begins at the border nearest to its time.
    Which one a chunk follows depends on the schedule and on the video before it alone, so a video that is made in
    pieces with the same schedule is the same video.
    """

    def __init__(self, prompts: Sequence[ScheduledPrompt]) -> None:
        """Check and keep the prompts in the order of their times.

        Raises:
            ValueError: there is none, two have the same time, a crossfade does not end before the next prompt begins,
                or prompt embeds differ in width.
        """
        if not prompts:
            raise ValueError("the schedule is empty; give at least one prompt.")
        self.prompts = tuple(sorted(prompts, key=lambda prompt: prompt.seconds))
        times = [prompt.seconds for prompt in self.prompts]
        if twice := [time for time, following in pairwise(times) if time == following]:
            raise ValueError(f"two prompts begin at {spoken_time(twice[0])}; give each a time of its own.")
        for prompt, following in pairwise(self.prompts[1:]):
            if prompt.seconds + prompt.crossfade > following.seconds:
                raise ValueError(
                    f"the prompt of {spoken_time(prompt.seconds)} takes {prompt.crossfade:g} s to fade in, but the "
                    f"next begins at {spoken_time(following.seconds)}; shorten crossfade, or let it begin later."
                )
        if len({prompt.text.shape[-1] for prompt in self.prompts}) > 1:
            raise ValueError("the schedule's prompts were encoded by different text encoders; use one for all.")

    def too_late_for(self, num_frames: int, *, chunk: int) -> tuple[float, ...]:
        """Return the times of prompts that no chunk of a video of so many latent frames follows.

        chunk: latent frames of its last chunk.
        """
        middle = (WAN21.seconds(num_frames - chunk) + WAN21.seconds(num_frames)) / 2
        return tuple(prompt.seconds for prompt in self.prompts if prompt.seconds > middle)

    def first_text(self) -> Tensor:
        """Return what a video begins with. Raises ValueError if no prompt begins at 0."""
        if self.prompts[0].seconds > 0:
            raise ValueError(
                f"the first prompt begins at {spoken_time(self.prompts[0].seconds)}; a video needs one at 0:00. Add "
                "it, or change that time."
            )
        return self.prompts[0].text

    def active_prompt(self, state: RolloutState) -> ActivePrompt:
        """Return what the next chunk follows. Before the first prompt the video's last text goes on.

        Raises ValueError if no prompt begins at 0 and the video is empty.
        """
        latest = state.texts[state.chunks[-1].text] if state.chunks else None
        begins, ends = _span(state)
        index = sum(prompt.seconds <= (begins + ends) / 2 for prompt in self.prompts) - 1
        if index < 0:
            return ActivePrompt(text=self.first_text() if latest is None else latest, recache=False)
        prompt = self.prompts[index]
        if ends - prompt.seconds < prompt.crossfade:
            before = self.prompts[index - 1].text if index > 0 else _text_before(prompt.seconds, state)
            if before is not None:
                share = (ends - prompt.seconds) / prompt.crossfade
                return ActivePrompt(text=_between(before, prompt.text, share), recache=False)
        return ActivePrompt(
            text=prompt.text, recache=prompt.recache and latest is not None and not _same(latest, prompt.text)
        )


def _span(state: RolloutState) -> tuple[float, float]:
    """Seconds of video at which the next chunk begins and ends."""
    made = state.num_frames
    return WAN21.seconds(made), WAN21.seconds(state.config.frames_after(1, made=made))


def _text_before(seconds: float, state: RolloutState) -> Tensor | None:
    """Return what the video's last chunk before a time followed, by its middle; None if there is none."""
    found, made = None, 0
    for chunk in state.chunks:
        begins, made = made, made + chunk.num_frames
        if (WAN21.seconds(begins) + WAN21.seconds(made)) / 2 < seconds:
            found = state.texts[chunk.text]
    return found


def _between(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Two texts mixed token by token; the shorter is followed by zeros, as an encoder pads it."""
    length = max(first.shape[1], second.shape[1])
    first, second = (
        F.pad(text.detach().to("cpu", torch.float32), (0, 0, 0, length - text.shape[1])) for text in (first, second)
    )
    return torch.lerp(first, second, share)


def _same(first: Tensor, second: Tensor) -> bool:
    second = second.detach().to("cpu", torch.float32)
    return first.shape == second.shape and torch.equal(first, second)
