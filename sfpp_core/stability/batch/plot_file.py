"""The plot of a video's result in a PNG file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from ...files import replacing
from ..footage import Footage
from ..offline.events import events_of
from ..offline.judge import OfflineJudge
from ..rating import Judge
from ..report.plot import plot_report
from ..report.report import StabilityReport
from .results import VideoResult

RESULT_KEY: Final = "sfpp-result"
"""The text entry of a plot's file that says of which result it is."""


def draw(video: Footage, result: VideoResult, judge: Judge, path: Path) -> None:
    """Plot a result that has ratings, unless the file already is its plot. Nothing is rated again.

    judge: if it has measured the video, that is not done again either.

    Raises:
        OSError: the file or its folders cannot be made.
        VideoFileError: the video is damaged or cut short.
    """
    drawn_result = hashlib.sha256(result.to_json().encode()).hexdigest()
    if _drawn_result(path) == drawn_result:
        return
    offline = judge if isinstance(judge, OfflineJudge) else OfflineJudge()
    assessment = offline.assessment(video)
    report = StabilityReport.of(video.name, result.stability, assessment.series, events_of(assessment))
    info = PngInfo()
    info.add_text(RESULT_KEY, drawn_result)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        plot_report(report).save(temporary, pnginfo=info)


def _drawn_result(path: Path) -> str | None:
    """Of which result the file is the plot; None if it is none, or not there."""
    try:
        with Image.open(path) as image:
            return image.info.get(RESULT_KEY)
    except (FileNotFoundError, UnidentifiedImageError):
        return None
