"""What a judge says about a video, and what a judge is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from .footage import Footage

MAX_RATING: Final = 5
"""A video with nothing to find fault with; 0 is one whose nearly every frame is lost."""


class JudgeError(RuntimeError):
    """A judge could not rate a video; the message says why and what to do about it, and never holds a key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rating:
    """One judgement. Judges that are language models give whole numbers, the offline judge any."""

    explanation: str
    """What was seen, and when; comes before the number because a judge that explains first rates better."""
    rating: float
    """0 (nearly every frame blown out or crushed) to 5 (balanced exposure, detail kept)."""

    def __post_init__(self) -> None:
        if not 0 <= self.rating <= MAX_RATING:
            raise ValueError(f"rating is {self.rating}; it must lie between 0 and {MAX_RATING}.")
        if not self.explanation.strip():
            raise ValueError("explanation is empty; a rating always says what was seen.")


class Judge(Protocol):
    """Rates how well a video keeps its exposure and its detail."""

    @property
    def name(self) -> str:
        """Who judges, with everything that changes its ratings (model, version of the rubric): the key of caches."""
        ...

    def rate(self, video: Footage, prompt: str) -> Rating:
        """Watch `video`, which `prompt` asked for (empty if nobody knows), and rate it.

        Raises:
            JudgeError: no rating could be had.
        """
        ...
