"""SFPP Prompt Schedule and SFPP Prompt At: what a video shows when."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..sfpp_core.rollout.prompt_schedule import LATEST_SECONDS, parse_timed_lines, spoken_time
from .comfy.conditioning import scheduled
from .comfy.report import Report
from .widgets import CATEGORY, CheckedNode, search_aliases

EXAMPLE = (
    "0:00 A red ball glides slowly to the left in the desert.\n0:20 A blue boat bounces slowly up and down at sea."
)


def _crossfade_input() -> io.Input:
    return io.Float.Input(
        "crossfade",
        default=0.0,
        min=0.0,
        max=600.0,
        step=0.25,
        round=0.01,
        tooltip="Seconds over which a prompt gives way to the next, chunk by chunk. 0 changes at once, which still "
        "takes a window (5 s) to show fully unless the memory is renewed.",
    )


def _recache_input() -> io.Input:
    return io.Boolean.Input(
        "recache",
        default=False,
        label_on="renew the memory",
        label_off="keep the memory",
        tooltip="What a new prompt does with the frames that the model remembers. Kept, the change is slow and smooth. "
        "Renewed, they are read again under the new prompt, as LongLive does: it shows at once, in the same picture.",
    )


def _schedule_output() -> io.Output:
    return io.Conditioning.Output(
        "schedule", display_name="schedule", tooltip="For positive of SFPP Sampler or SFPP Extend."
    )


class SFPPPromptSchedule(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SFPPPromptSchedule",
            display_name="SFPP Prompt Schedule",
            category=CATEGORY,
            **search_aliases("prompt travel", "timeline", "storyboard", "self forcing", "long video"),
            description="Prompts with the times of the video at which they begin, for SFPP Sampler and SFPP Extend. "
            "They change at the border of the nearest chunk.",
            inputs=[
                io.Clip.Input("clip", tooltip="The model's own text encoder, as for CLIP Text Encode."),
                io.String.Input(
                    "lines",
                    default=EXAMPLE,
                    multiline=True,
                    tooltip="One prompt a line, each with its time in front: 0:20, 1:02:03 or 90s. A line without a "
                    "time goes on with the prompt above it; lines that begin with # are passed over.",
                ),
                _crossfade_input(),
                _recache_input(),
            ],
            outputs=[_schedule_output()],
        )

    @classmethod
    def check(cls, *, lines: str | None = None, **inputs: Any) -> None:
        """Refuse a schedule that cannot be read, or that begins late; one that is wired in is read later."""
        del inputs
        if lines is not None:
            parse_timed_lines(lines)

    @classmethod
    def execute(cls, clip: Any, lines: str, crossfade: float, recache: bool) -> io.NodeOutput:
        prompts = parse_timed_lines(lines)
        if clip is None:
            raise ValueError("clip is empty: the checkpoint that it came from holds no text encoder.")
        schedule = []
        for prompt in prompts:
            encoded = clip.encode_from_tokens_scheduled(clip.tokenize(prompt.prompt))
            schedule += scheduled(encoded, seconds=prompt.seconds, crossfade=crossfade, recache=recache)
        report = Report()
        number = "1 prompt" if len(prompts) == 1 else f"{len(prompts)} prompts"
        report.add("\n".join([f"{number}:", *(f"{spoken_time(prompt.seconds)} {prompt.prompt}" for prompt in prompts)]))
        return io.NodeOutput(schedule, ui=report.ui())


class SFPPPromptAt(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SFPPPromptAt",
            display_name="SFPP Prompt At",
            category=CATEGORY,
            **search_aliases("prompt travel", "timeline", "storyboard", "self forcing"),
            description="Gives a prompt the time of the video at which it begins, and adds it to a schedule: for "
            "prompts from any node that makes CONDITIONING. Chain several for a schedule.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="The prompt, from CLIP Text Encode."),
                io.Float.Input(
                    "seconds",
                    default=0.0,
                    min=0.0,
                    max=LATEST_SECONDS,
                    step=0.5,
                    round=0.01,
                    tooltip="When it begins, in seconds from the beginning of the video. The first prompt of a video "
                    "begins at 0.",
                ),
                _crossfade_input(),
                _recache_input(),
                io.Conditioning.Input(
                    "earlier", optional=True, tooltip="Prompts with other times, from SFPP Prompt At or Schedule."
                ),
            ],
            outputs=[_schedule_output()],
        )

    @classmethod
    def execute(
        cls,
        positive: list[list[Any]],
        seconds: float,
        crossfade: float,
        recache: bool,
        earlier: list[list[Any]] | None = None,
    ) -> io.NodeOutput:
        if len(positive) != 1:
            raise ValueError(f"positive holds {len(positive)} prompts; wire one CLIP Text Encode into it.")
        own = scheduled(positive, seconds=seconds, crossfade=crossfade, recache=recache)
        return io.NodeOutput([*(earlier or []), *own])
