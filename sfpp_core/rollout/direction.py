"""Which text rules which chunk: prompts with the times from which they rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ..wan.geometry import WAN21
from .state import RolloutState
from .timed_lines import spoken_time


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cue:
    """From when on a text rules."""

    text: Tensor
    """[1, L, text_dim]."""
    seconds: float = 0.0
    """Of the whole film, its given start included."""
    crossfade: float = 0.0
    """Seconds over which the text before gives way to this one; 0 changes at once."""
    recache: bool = False
    """Whether the past is encoded anew under this text once it rules alone; see `Rollout.direct`."""

    def __post_init__(self) -> None:
        for name in ("seconds", "crossfade"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value:g}; it is a number of seconds, 0 or more.")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ruling:
    """What a chunk follows."""

    text: Tensor
    recache: bool


class Direction:
    """Texts and the times from which they rule, switched at the borders of chunks.

    A text rules the chunks whose middle lies at its time or later: the border nearest to the time is where it begins.
    What rules a chunk depends on the schedule and on the film before it alone, so a film that is made in pieces with
    the same schedule is the same film.
    """

    def __init__(self, cues: Sequence[Cue]) -> None:
        """Raises ValueError if there is none, two have the same time, a crossfade does not end before the next text
        begins, or texts are of different widths."""
        if not cues:
            raise ValueError("the schedule is empty; give at least one prompt.")
        self.cues = tuple(sorted(cues, key=lambda cue: cue.seconds))
        times = [cue.seconds for cue in self.cues]
        if twice := [time for time, following in pairwise(times) if time == following]:
            raise ValueError(f"two prompts begin at {spoken_time(twice[0])}; give each a time of its own.")
        for cue, following in pairwise(self.cues[1:]):
            if cue.seconds + cue.crossfade > following.seconds:
                raise ValueError(
                    f"the prompt of {spoken_time(cue.seconds)} takes {cue.crossfade:g} s to fade in, but the next "
                    f"begins at {spoken_time(following.seconds)}; shorten crossfade, or let it begin later."
                )
        if len({cue.text.shape[-1] for cue in self.cues}) > 1:
            raise ValueError("the schedule's prompts were encoded by different text encoders; use one for all.")

    def first_text(self) -> Tensor:
        """What a film begins with. Raises ValueError if nothing rules at its beginning."""
        if self.cues[0].seconds > 0:
            raise ValueError(
                f"the first prompt begins at {spoken_time(self.cues[0].seconds)}; a film needs one at 0:00. Add it, or "
                "change that time."
            )
        return self.cues[0].text

    def ruling(self, state: RolloutState) -> Ruling:
        """What the next chunk follows. Before the first cue the film's last text goes on.

        Raises ValueError if nothing rules at the beginning of an empty film.
        """
        latest = state.texts[state.chunks[-1].text] if state.chunks else None
        begins, ends = _span(state)
        index = sum(cue.seconds <= (begins + ends) / 2 for cue in self.cues) - 1
        if index < 0:
            return Ruling(text=self.first_text() if latest is None else latest, recache=False)
        cue = self.cues[index]
        if ends - cue.seconds < cue.crossfade:
            before = self.cues[index - 1].text if index > 0 else _text_before(cue.seconds, state)
            if before is not None:
                share = (ends - cue.seconds) / cue.crossfade
                return Ruling(text=_between(before, cue.text, share), recache=False)
        return Ruling(text=cue.text, recache=cue.recache and latest is not None and not _same(latest, cue.text))


def _span(state: RolloutState) -> tuple[float, float]:
    """Seconds of film at which the next chunk begins and ends."""
    made = state.num_frames
    return WAN21.seconds(made), WAN21.seconds(state.config.frames_after(1, made=made))


def _text_before(seconds: float, state: RolloutState) -> Tensor | None:
    """What ruled the film's last chunk whose middle lies before a time; None if there is none."""
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
