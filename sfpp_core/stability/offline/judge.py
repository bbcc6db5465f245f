"""The offline judge: rates from measured pixels, with no model and no network. It is not the paper's judge."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

import numpy as np

from ..footage import Footage
from ..measurement.measure import measure
from ..measurement.series import FrameSeries
from ..rating import MAX_RATING, Rating
from ..score import clock
from .assessment import Assessment, Damage, assess
from .events import Event, events_of

_NO_DAMAGE: Final = "exposure, colour, detail and motion hold as in the first seconds"


class OfflineJudge:
    """Compares every frame of a video with the video's own first seconds; see docs/stability.md.

    measure: gives the series of a whole video, for a caller that has measured it already. The judge assesses the same
        video only once in a row.
    unheeded: kinds of damage that are none in these videos, such as loops where the subject itself is periodic.
    """

    name = "offline-4"
    """Raised with every change of what is rated: ledgers keep ratings by it."""

    def __init__(
        self, measure: Callable[[Footage], FrameSeries] = measure, *, unheeded: Collection[Damage] = ()
    ) -> None:
        self._measure = measure
        self._unheeded = unheeded
        if unheeded:
            self.name = f"{OfflineJudge.name} without {', '.join(sorted(unheeded))}"
        self._known: tuple[Footage, Assessment] | None = None

    def rate(self, video: Footage, prompt: str) -> Rating:
        """Rate a span. The prompt is not looked at: pixels do not tell whether it asked for a storm.

        Raises:
            VideoFileError: the file is damaged or cut short.
        """
        assessment = self.assessment(video)
        first, last = np.searchsorted(assessment.series.time, (video.start, video.end))
        first = min(first, len(assessment.series) - 1)
        rating = MAX_RATING * assessment.quality(slice(first, max(last, first + 1)))
        return Rating(explanation=_explanation(video, events_of(assessment, video.start, video.end)), rating=rating)

    def assessment(self, video: Footage) -> Assessment:
        """What was found in the whole video that `video` is a span of.

        Raises:
            VideoFileError: the file is damaged or cut short.
        """
        if self._known is None or self._known[0] != video.whole:
            self._known = (video.whole, assess(self._measure(video.whole)).without(self._unheeded))
        return self._known[1]


def _explanation(video: Footage, events: list[Event]) -> str:
    found = "; ".join(event.description for event in events) or _NO_DAMAGE
    return f"Offline judge, {clock(video.start)}-{clock(video.end)}: {found}."
