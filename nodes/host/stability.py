"""Visual Stability as a node runs it: with ComfyUI's progress and interrupt, and ratings that outlive it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import folder_paths
import numpy as np
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from torch import Tensor

from ...sfpp_core.stability.judges.registry import make_judge
from ...sfpp_core.stability.ledger import RatingLedger
from ...sfpp_core.stability.score import Judge, visual_stability
from ...sfpp_core.video.span import Footage
from .footage import footage_of
from .progress import InterruptibleBar, say

if TYPE_CHECKING:
    from ...sfpp_core.stability.measure import FrameSeries
    from ...sfpp_core.stability.report import StabilityReport

LEDGER_NAME = "ratings.sqlite3"
BAR_STEPS = 1000
MAX_MEASURED_FILMS = 8
"""A film of four minutes takes 8 MB."""

_measured: OrderedDict[str, FrameSeries] = OrderedDict()
"""Of the films measured last, by fingerprint: another prompt or judge is no reason to measure again."""


@contextmanager
def requirements() -> Iterator[None]:
    """Say in words what is missing where OpenCV or Matplotlib are imported.

    They are imported where they are used: ComfyUI does not bring them, all other nodes work without, and it starts
    faster.

    Raises:
        RuntimeError: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise RuntimeError(
            f"The Python package {error.name} is not installed. With the Python that runs ComfyUI: "
            "python -m pip install -r requirements.txt, in the folder of this pack."
        ) from error


def choose_judge(name: str, model: str = "") -> Judge:
    """The judge of a name, open to ComfyUI's interrupt; `model` is for those that have models, empty their own choice.

    Raises:
        ValueError: there is no such judge.
        RuntimeError: it cannot work here: it has no key, or a package is missing. JudgeError is one.
    """
    with requirements():
        if name == "offline":
            from ...sfpp_core.stability.offline.judge import OfflineJudge

            return OfflineJudge(measured)
        return replace(make_judge(name, model.strip() or None), abort=throw_exception_if_processing_interrupted)


def rate_film(video: Any, prompt: str, judge: Judge, *, segment_seconds: float, fps: float) -> StabilityReport:
    """Measure a VIDEO, or an IMAGE batch shown at `fps`, and have it rated, unless that has been done before.

    segment_seconds: what gets a rating of its own; 0 for the whole film.

    Raises:
        InterruptProcessingException: the artist has stopped the run; what was rated until then is kept.
        JudgeError, LedgerError, PermissionError, ValueError: it could not be rated; each says why.
    """
    with requirements(), footage_of(video, fps) as footage:
        from ...sfpp_core.stability.offline.judge import OfflineJudge, events_of
        from ...sfpp_core.stability.report import StabilityReport

        offline = judge if isinstance(judge, OfflineJudge) else OfflineJudge(measured)
        # Before a rating is paid for: a damaged film shows here.
        assessment = offline.assessment(footage)
        bar = InterruptibleBar()
        stability = visual_stability(
            footage,
            prompt.strip(),
            judge,
            segment_seconds=segment_seconds or None,
            store=_ledger(),
            on_segment=bar.update,
        )
        return StabilityReport.of(footage.name, stability, assessment.series, events_of(assessment))


def measured(film: Footage) -> FrameSeries:
    """The measurements of a film, from memory if it is one of the last; otherwise with progress and interrupt."""
    from ...sfpp_core.stability.measure import measure

    key = film.fingerprint()
    if key not in _measured:
        say(f"Measuring {film.name}")
        bar = InterruptibleBar()
        _measured[key] = measure(film, lambda share: bar.update(round(share * BAR_STEPS), BAR_STEPS))
    _measured.move_to_end(key)
    while len(_measured) > MAX_MEASURED_FILMS:
        _measured.popitem(last=False)
    return _measured[key]


def draw_report(report: StabilityReport) -> Tensor:
    """The plot of a report as an IMAGE: [1, H, W, 3] in [0, 1]."""
    with requirements():
        from ...sfpp_core.stability.plot import plot_report

        plot = plot_report(report)
    return torch.from_numpy(np.asarray(plot.convert("RGB"), dtype=np.float32) / 255)[None]


def _ledger() -> RatingLedger:
    """The ratings of all runs: in the part of ComfyUI's user folder that its web server does not give away."""
    folder = Path(folder_paths.get_system_user_directory("sfpp"))
    folder.mkdir(parents=True, exist_ok=True)
    return RatingLedger(folder / LEDGER_NAME)
