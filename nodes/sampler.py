"""SFPP Sampler: begins a video."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..sfpp_core.rollout.config import VideoLength, video_length
from ..sfpp_core.rollout.flow import MAX_SEED
from ..sfpp_core.rollout.memory import CacheStorage
from ..sfpp_core.rollout.prompt_schedule import PromptSchedule, ScheduledPrompt, spoken_time
from ..sfpp_core.rollout.state import RolloutState
from ..sfpp_core.wan.config import WAN21
from .comfy.conditioning import schedule_of
from .comfy.fingerprint import model_identity
from .comfy.inactive import what_does_not_act
from .comfy.memory import AS_BEFORE, AS_COMPUTED, CACHE_STORAGES, cache_storage_input, continued_cache_storage_input
from .comfy.model import Latent, start_latents, to_latent, to_model_space
from .comfy.queued_graph import upstream_digest
from .comfy.report import Report
from .comfy.sampling import RunOptions, preset_settings, sample_chunks, unfinished_deliveries
from .comfy.wired import wan_config
from .widgets import (
    CATEGORY,
    MAX_SIDE,
    CheckedNode,
    VideoState,
    deliver_on_interrupt_input,
    is_preset,
    live_vae_input,
    parse_steps,
    require_choice,
    rollout_inputs,
    rollout_settings,
    search_aliases,
    side_input,
)

NEAR_TRAINING = "Stay near what the model was trained at: 832x480 for Wan 2.1 1.3B, 64x64 for the built-in model."


class SFPPSampler(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SFPPSampler",
            display_name="SFPP Sampler",
            category=CATEGORY,
            **search_aliases(
                "self forcing",
                "long video",
                "causal",
                "autoregressive",
                "KV cache",
                "text to video",
                "image to video",
                "wan",
            ),
            description="Makes a video of any length chunk by chunk with a rolling memory: every second costs the same "
            "time, and memory does not grow. Continue the video with SFPP Extend.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A Wan 2.1 text-to-video model made causal (Self-Forcing and its family). Plain Wan 2.1 "
                    "runs, but was not trained for this and falls apart.",
                ),
                io.Conditioning.Input(
                    "positive",
                    tooltip="What the video shows, from CLIP Text Encode, or what it shows when, from SFPP Prompt "
                    "Schedule. There is no negative.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=MAX_SEED,
                    control_after_generate=True,
                    tooltip="Chooses the noise, which is the same on every machine. The same seed and settings give "
                    "the same video, made in one go or in pieces.",
                ),
                side_input("width", NEAR_TRAINING, default=832),
                side_input("height", NEAR_TRAINING, default=480),
                io.Float.Input(
                    "seconds",
                    default=5.0,
                    min=0.1,
                    max=3600.0,
                    step=0.5,
                    round=0.01,
                    tooltip="Length to make, in seconds at 16 frames a second, a start not counted. Rounded up to "
                    "whole chunks (with chunk 3: 9, 21, 33, ... frames); the node says what it became.",
                ),
                *rollout_inputs(),
                deliver_on_interrupt_input(),
                io.Latent.Input(
                    "start",
                    optional=True,
                    tooltip="Begin from this instead of from nothing: an image or a video, from VAE Encode, of the "
                    "same size. It becomes the beginning of the video.",
                ),
                cache_storage_input(),
                live_vae_input(),
            ],
            outputs=[
                io.Latent.Output(
                    "latent", display_name="latent", tooltip="The video, for SFPP Decode To Video or VAE Decode."
                ),
                VideoState.Output("state", display_name="state", tooltip="For SFPP Extend and SFPP Save State."),
            ],
            hidden=[io.Hidden.dynprompt],
        )

    @classmethod
    def check(
        cls, *, width: int | str | None = None, height: int | str | None = None, steps: str | None = None, **inputs: Any
    ) -> None:
        """Refuse impossible sizes and lists of steps; what is wired in is only known later."""
        del inputs
        _latent_size(*(side if isinstance(side, int) else WAN21.size_multiple for side in (height, width)))
        if steps is not None and not is_preset(steps):
            parse_steps(steps)

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> int:
        """A video that was cut short goes on when it is queued again, although nothing else has changed."""
        del inputs
        return unfinished_deliveries()

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: list[list[Any]],
        seed: int,
        width: int,
        height: int,
        seconds: float,
        deliver_on_interrupt: bool = False,
        start: Latent | None = None,
        cache_storage: str = AS_COMPUTED,
        vae: Any = None,
        **settings: Any,
    ) -> io.NodeOutput:
        report = Report()
        config = rollout_settings(preset_settings(model, report), **settings)
        schedule = schedule_of(positive, wan_config(model).text_dim)
        text = schedule.first_text()
        latent_size = _latent_size(height, width)
        require_choice("cache_storage", cache_storage, CACHE_STORAGES)
        storage = CACHE_STORAGES[cache_storage]
        state = RolloutState(
            config=config,
            seed=seed,
            model_id=str(model_identity(model)),
            shape=(1, WAN21.channels, *latent_size),
            cache_form=storage.form,
        )
        if start is not None:
            state = state.with_given(to_model_space(model, start_latents(start, latent_size)), text)
        length = video_length(seconds, config, made=state.num_frames)
        report.add(str(length))
        report.add_all(_prompts_after_the_end(schedule, state, length))
        report.add_all(what_does_not_act(model, positive, start))
        options = RunOptions(
            offloaded=storage.offloaded,
            deliver_on_interrupt=deliver_on_interrupt,
            upstream=upstream_digest(cls.hidden.dynprompt, "model"),
            vae=vae,
        )
        state, latent = sample_chunks(model, state, schedule, length.num_chunks, options, report)
        return io.NodeOutput(latent, state, ui=report.ui())


def _prompts_after_the_end(schedule: PromptSchedule, state: RolloutState, length: VideoLength) -> list[str]:
    """Say which prompts of a schedule the video never comes to."""
    num_frames = state.config.frames_after(length.num_chunks, made=state.num_frames)
    late = schedule.too_late_for(num_frames, chunk=state.config.chunk)
    if not late:
        return []
    return [
        f"Too late for this video: the prompt{'s' if len(late) > 1 else ''} of {', '.join(map(spoken_time, late))}."
    ]


def _latent_size(height: int, width: int) -> tuple[int, int]:
    """Height and width in latent cells. Raises ValueError naming the side that no video can have."""
    for name, side in (("height", height), ("width", width)):
        if side > MAX_SIDE:
            raise ValueError(
                f"{name} is {side}; it can be {MAX_SIDE} pixels at most. Try what the model was trained at."
            )
    return WAN21.latent_size(height, width)


class SFPPExtend(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SFPPExtend",
            display_name="SFPP Extend",
            category=CATEGORY,
            **search_aliases("self forcing", "continue video", "longer", "branch", "long video"),
            description="Continues a video exactly as if it had been made in one go, or lets a new prompt rule from "
            "here on. The state that comes in stays as it is: branch from it as often as you like.",
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model that began the video, with the same LoRAs at the same strengths."
                ),
                VideoState.Input(
                    "state", tooltip="Where the video stands: from SFPP Sampler, SFPP Extend or SFPP Load State."
                ),
                io.Float.Input(
                    "seconds",
                    default=5.0,
                    min=0.1,
                    max=3600.0,
                    step=0.5,
                    round=0.01,
                    tooltip="Length to add, in seconds at 16 frames a second. Rounded up to whole chunks (with chunk "
                    "3: multiples of 12 frames); the node says what it became.",
                ),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="A new prompt for what is added; the old one still shows until its frames have left the "
                    "window. Or an SFPP Prompt Schedule, whose times count from the beginning of the video. Not "
                    "connected: the video's last prompt goes on.",
                ),
                deliver_on_interrupt_input(),
                continued_cache_storage_input(),
                live_vae_input(),
            ],
            outputs=[
                io.Latent.Output(
                    "new_latent",
                    display_name="new latent",
                    tooltip="Only what was added. Decoded alone its first frame is taken for a still picture; decode "
                    "the whole latent for a seamless video.",
                ),
                io.Latent.Output("whole_latent", display_name="whole latent", tooltip="The video from its beginning."),
                VideoState.Output(
                    "new_state", display_name="state", tooltip="The longer video, for the next SFPP Extend."
                ),
            ],
            hidden=[io.Hidden.dynprompt],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> int:
        """Do the same as SFPP Sampler's."""
        del inputs
        return unfinished_deliveries()

    @classmethod
    def execute(
        cls,
        model: Any,
        state: RolloutState,
        seconds: float,
        positive: list[list[Any]] | None = None,
        deliver_on_interrupt: bool = False,
        cache_storage: str = AS_BEFORE,
        vae: Any = None,
    ) -> io.NodeOutput:
        text_dim = wan_config(model).text_dim
        state.require_model(str(model_identity(model)))
        if not state.chunks:
            raise ValueError("this state holds no video yet; start one with SFPP Sampler.")
        if positive is None:
            schedule = PromptSchedule([ScheduledPrompt(text=state.texts[state.chunks[-1].text])])
        else:
            schedule = schedule_of(positive, text_dim)
        length = video_length(seconds, state.config, made=state.num_frames)
        report = Report()
        report.add(str(length))
        report.add_all(_prompts_after_the_end(schedule, state, length))
        report.add_all(what_does_not_act(model, positive))
        require_choice("cache_storage", cache_storage, (AS_BEFORE, *CACHE_STORAGES))
        storage = CACHE_STORAGES.get(cache_storage, CacheStorage(form=state.cache_form))
        options = RunOptions(
            offloaded=storage.offloaded,
            deliver_on_interrupt=deliver_on_interrupt,
            upstream=upstream_digest(cls.hidden.dynprompt, "model"),
            vae=vae,
        )
        begun = state.with_cache_form(storage.form)
        longer, whole = sample_chunks(model, begun, schedule, length.num_chunks, options, report)
        added = torch.cat([chunk.latents for chunk in longer.chunks[len(state.chunks) :]], dim=2)
        return io.NodeOutput(to_latent(model, added), whole, longer, ui=report.ui())
