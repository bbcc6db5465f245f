"""SFPP Visual Stability and SFPP Stability Report: whether a film holds up, and where it does not."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..sfpp_core.stability.judges.registry import JUDGES
from ..sfpp_core.stability.score import SEGMENT_SECONDS
from ..sfpp_core.video.span import MAX_RATE
from .host.report import Report
from .host.stability import choose_judge, draw_report, rate_film
from .vocabulary import CATEGORY, FilmReport, search_aliases


def _advanced(widget: io.Input) -> io.Input:
    """Have the page fold a widget away, where it can: ComfyUI 0.3.75 has no argument for it, and shows the widget."""
    widget.extra_dict = {**widget.extra_dict, "advanced": True}
    return widget


class VisualStability(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SFPPVisualStability",
            display_name="SFPP Visual Stability",
            category=CATEGORY,
            **search_aliases("video quality", "score", "drift", "flicker", "evaluate"),
            description="Rates how well a film keeps its exposure and detail, from 0 to 100, and says what it saw and "
            "when. The offline judge measures pixels on this machine. The others send the film to a model and cost "
            "money; the same film is never rated twice. Keys come from the environment of ComfyUI, never from a "
            "workflow.",
            inputs=[
                io.MultiType.Input(
                    "video",
                    types=[io.Video, io.Image],
                    tooltip="The film: a VIDEO, which is read from its file piece by piece, however long, or an IMAGE "
                    "batch.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="",
                    tooltip="What the film was to show. A judge that is a model excuses darkness or glare only if the "
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
                    tooltip="Seconds of film that get a rating of their own, so that a curve over time comes out. 0 "
                    "rates the film as a whole, as the paper does. Each rating of gemini or openai is paid for.",
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
                FilmReport.Output("report", display_name="report", tooltip="For SFPP Stability Report."),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, judge: str | None) -> bool | str:
        """A judge that cannot work here, for want of a key say, is refused before an hour of sampling."""
        if judge is None:
            return True
        try:
            choose_judge(judge)
        except (ValueError, RuntimeError) as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls, video: Any, prompt: str, judge: str, segment_seconds: float, model: str, fps: float
    ) -> io.NodeOutput:
        ratings = rate_film(video, prompt, choose_judge(judge, model), segment_seconds=segment_seconds, fps=fps)
        stability = ratings.stability
        report = Report()
        report.add(f"Visual Stability {stability.score:.1f} of 100 ({stability.judge})")
        shown = ui.PreviewText(stability.explanation).as_dict() | report.ui("said")
        return io.NodeOutput(stability.score, stability.explanation, ratings, ui=shown)


class StabilityReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SFPPStabilityReport",
            display_name="SFPP Stability Report",
            category=CATEGORY,
            **search_aliases("plot", "chart", "video quality", "drift"),
            description="Draws how a film went: its ratings, exposure, contrast, sharpness, colour and motion over "
            "time, with the damages that were found. Gives all figures as JSON too.",
            inputs=[FilmReport.Input("report", tooltip="From SFPP Visual Stability.")],
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
