"""SFPP Visual Stability and SFPP Stability Report: whether a video holds up, and where it does not.

Rating runs with ComfyUI's progress and interrupt, and ratings are kept for later runs.
"""

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
from comfy_api.latest import io, ui
from torch import Tensor

from ..sfpp_core.stability.judges.registry import JUDGES, make_judge
from ..sfpp_core.stability.ledger import RatingLedger
from ..sfpp_core.stability.score import SEGMENT_SECONDS, Judge, visual_stability
from ..sfpp_core.video.span import MAX_RATE, VideoSpan
from .comfy.progress import InterruptibleBar, say
from .comfy.report import Report
from .comfy.video import footage_of
from .widgets import CATEGORY, CheckedNode, VideoReport, search_aliases

if TYPE_CHECKING:
    from ..sfpp_core.stability.measure import FrameSeries
    from ..sfpp_core.stability.report import StabilityReport

LEDGER_NAME = "ratings.sqlite3"
BAR_STEPS = 1000
MAX_MEASURED_VIDEOS = 8
"""A video of four minutes takes 8 MB."""

_measured: OrderedDict[str, FrameSeries] = OrderedDict()
"""Of the videos measured last, by fingerprint: another prompt or judge is no reason to measure again."""


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
            from ..sfpp_core.stability.offline.judge import OfflineJudge

            return OfflineJudge(measured)
        return replace(make_judge(name, model.strip() or None), abort=throw_exception_if_processing_interrupted)


def rate_video(video: Any, prompt: str, judge: Judge, *, segment_seconds: float, fps: float) -> StabilityReport:
    """Measure a VIDEO, or an IMAGE batch shown at `fps`, and have it rated, unless that has been done before.

    segment_seconds: what gets a rating of its own; 0 for the whole video.

    Raises:
        InterruptProcessingException: the artist has stopped the run; what was rated until then is kept.
        JudgeError, LedgerError, PermissionError, ValueError: it could not be rated; each says why.
    """
    with requirements(), footage_of(video, fps) as footage:
        from ..sfpp_core.stability.offline.judge import OfflineJudge, events_of
        from ..sfpp_core.stability.report import StabilityReport

        offline = judge if isinstance(judge, OfflineJudge) else OfflineJudge(measured)
        # Before a rating is paid for: a damaged video shows here.
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


def measured(video: VideoSpan) -> FrameSeries:
    """The measurements of a video, from memory if it is one of the last; otherwise with progress and interrupt."""
    from ..sfpp_core.stability.measure import measure

    key = video.fingerprint()
    if key not in _measured:
        say(f"Measuring {video.name}")
        bar = InterruptibleBar()
        _measured[key] = measure(video, lambda share: bar.update(round(share * BAR_STEPS), BAR_STEPS))
    _measured.move_to_end(key)
    while len(_measured) > MAX_MEASURED_VIDEOS:
        _measured.popitem(last=False)
    return _measured[key]


def draw_report(report: StabilityReport) -> Tensor:
    """The plot of a report as an IMAGE: [1, H, W, 3] in [0, 1]."""
    with requirements():
        from ..sfpp_core.stability.plot import plot_report

        plot = plot_report(report)
    return torch.from_numpy(np.asarray(plot.convert("RGB"), dtype=np.float32) / 255)[None]


def _ledger() -> RatingLedger:
    """The ratings of all runs: in the part of ComfyUI's user folder that its web server does not give away."""
    folder = Path(folder_paths.get_system_user_directory("sfpp"))
    folder.mkdir(parents=True, exist_ok=True)
    return RatingLedger(folder / LEDGER_NAME)


def _advanced(widget: io.Input) -> io.Input:
    """Have the page fold a widget away, where it can: ComfyUI 0.3.75 has no argument for it, and shows the widget."""
    widget.extra_dict = {**widget.extra_dict, "advanced": True}
    return widget


class SFPPVisualStability(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SFPPVisualStability",
            display_name="SFPP Visual Stability",
            category=CATEGORY,
            **search_aliases("video quality", "score", "drift", "flicker", "evaluate"),
            description="Rates how well a video keeps its exposure and detail, from 0 to 100, and says what it saw and "
            "when. The offline judge measures pixels on this machine. The others send the video to a model and cost "
            "money; the same video is never rated twice. Keys come from the environment of ComfyUI, never from a "
            "workflow.",
            inputs=[
                io.MultiType.Input(
                    "video",
                    types=[io.Video, io.Image],
                    tooltip="The video: a VIDEO, which is read from its file piece by piece, however long, or an IMAGE "
                    "batch.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="",
                    tooltip="What the video was to show. A judge that is a model excuses darkness or glare only if the "
                    "prompt asks for it. May stay empty.",
                ),
                io.Combo.Input(
                    "judge",
                    options=list(JUDGES),
                    tooltip="offline: measured here, nothing is sent anywhere. gemini: the judge of the Self-Forcing++ "
                    "paper; needs the package google-genai, and GEMINI_API_KEY in ComfyUI's environment. openai: any "
                    "server that speaks OpenAI's protocol; needs the package openai, and OPENAI_BASE_URL or "
                    "OPENAI_API_KEY there. Scores of different judges do not "
                    "compare.",
                ),
                io.Float.Input(
                    "segment_seconds",
                    default=SEGMENT_SECONDS,
                    min=0.0,
                    max=3600.0,
                    step=0.5,
                    round=0.01,
                    tooltip="Seconds of video that get a rating of their own, so that a curve over time comes out. 0 "
                    "rates the video as a whole, as the paper does. Each rating of gemini or openai is paid for.",
                ),
                _advanced(
                    io.String.Input(
                        "model",
                        default="",
                        tooltip="Name of the model that judges, for gemini and openai. Empty takes the judge's own "
                        "choice. The offline judge has none.",
                    )
                ),
                _advanced(
                    io.Float.Input(
                        "fps",
                        default=MAX_RATE,
                        min=0.1,
                        max=240.0,
                        step=1.0,
                        round=0.001,
                        tooltip="Frames per second of an IMAGE batch. A VIDEO knows its own.",
                    )
                ),
            ],
            outputs=[
                io.Float.Output("score", display_name="score", tooltip="Visual Stability, 0 to 100: higher is better."),
                io.String.Output(
                    "explanation",
                    display_name="explanation",
                    tooltip="What the judge saw, one line a segment with its time and its rating from 0 to 5.",
                ),
                VideoReport.Output("report", display_name="report", tooltip="For SFPP Stability Report."),
            ],
            is_output_node=True,
        )

    @classmethod
    def check(cls, *, judge: str | None = None, **inputs: Any) -> None:
        """Refuse a judge that cannot work here, for want of a key say, before an hour of sampling."""
        del inputs
        if judge is not None:
            choose_judge(judge)

    @classmethod
    def execute(
        cls, video: Any, prompt: str, judge: str, segment_seconds: float, model: str, fps: float
    ) -> io.NodeOutput:
        ratings = rate_video(video, prompt, choose_judge(judge, model), segment_seconds=segment_seconds, fps=fps)
        stability = ratings.stability
        report = Report()
        report.add(f"Visual Stability {stability.score:.1f} of 100 ({stability.judge})")
        shown = ui.PreviewText(stability.explanation).as_dict() | report.ui("said")
        return io.NodeOutput(stability.score, stability.explanation, ratings, ui=shown)


class SFPPStabilityReport(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SFPPStabilityReport",
            display_name="SFPP Stability Report",
            category=CATEGORY,
            **search_aliases("plot", "chart", "video quality", "drift"),
            description="Draws how a video went: its ratings, exposure, contrast, sharpness, colour and motion over "
            "time, with the damages that were found. Gives all figures as JSON too.",
            inputs=[VideoReport.Input("report", tooltip="From SFPP Visual Stability.")],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The plot, 1024 pixels wide, for Save Image."),
                io.String.Output(
                    "json",
                    display_name="json",
                    tooltip="The whole report as one JSON object: score, ratings, metrics, events and curves.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, report: Any) -> io.NodeOutput:
        plot = draw_report(report)
        return io.NodeOutput(plot, report.to_json(), ui=ui.PreviewImage(plot, cls=cls))
