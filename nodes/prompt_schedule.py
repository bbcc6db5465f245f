"""SFPP Prompt Schedule and SFPP Prompt At: what a film shows when.

ComfyUI's CONDITIONING as the direction that a rollout follows.

A prompt schedule travels as CONDITIONING too: one entry a prompt, with times beside the embedding. So stock nodes pass
it on, and a plain prompt is a schedule of one.
"""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..sfpp_core.rollout.prompt_schedule import LATEST_SECONDS, Cue, Direction, parse_timed_lines, spoken_time
from .comfy.report import Report
from .widgets import CATEGORY, search_aliases

UNDERSTOOD = {"pooled_output", "attention_mask"}
"""Keys that a text encoder adds and that Wan does not need: padding is already zeroed in the embedding."""

SECONDS, CROSSFADE, RECACHE = "sfpp_seconds", "sfpp_crossfade", "sfpp_recache"
"""Keys of a scheduled prompt; see sfpp_core's Cue."""

OF_PROMPT = {
    "hooks": {"hooks", "clip_start_percent", "clip_end_percent"},
    "area": {"area", "set_area_to_bounds", "strength", "mask", "mask_strength", "gligen"},
    "range": {"start_percent", "end_percent", "timestep_start", "timestep_end"},
    "control": {"control", "control_apply_to_uncond", "control_video"},
    "picture": {
        *("concat_latent_image", "concat_mask", "concat_mask_index", "concat_image", "clip_vision_output"),
        *("clip_vision_outputs", "unclip_conditioning", "noise_augmentation", "guiding_frame_index", "keyframe_idxs"),
        *("clip_vision_output_ref", "clip_vision_output_pose", "generated_keyframes", "minimax_keyframes"),
    },
    "reference": {
        *("reference_latents", "reference_latents_method", "reference_latents_text_embeds", "reference_motion"),
        *("reference_strength", "time_dim_concat", "time_dim_replace", "vace_frames", "vace_mask", "vace_strength"),
        *("pose_video_latent", "pose_strength", "face_video_pixels", "camera_conditions", "audio_embed", "ref_audio"),
        *("audio_inject_scale", "context_latents", "driving_mask_28ch", "ref_mask_28ch", "ref_mask_flag"),
        *("lq_latent", "ref_latent", "minimax_refs", "guide_attention_entries", "audio_codes"),
    },
    "setting": {
        *("guidance", "width", "height", "target_width", "target_height", "crop_w", "crop_h", "aesthetic_score"),
        *("frame_rate", "fps", "motion_bucket_id", "augmentation_level", "degrade_sigma", "prompt_type", "seed"),
        *("seconds_start", "seconds_total", "aspect_ratio"),
    },
}
"""Keys of CONDITIONING by what they are for."""
NEUTRAL = {"start_percent": 0.0, "end_percent": 1.0, "strength": 1.0, "mask_strength": 1.0}
"""What some of them are where they ask for nothing."""
EXPECT = {
    "hooks": "Hooks on positive ({keys}) do not act: weights and prompt are the same at every step. Use a LoRA loader "
    "on MODEL to change them for the whole video.",
    "area": "The area, mask or strength of positive ({keys}) does not act: a prompt rules the whole picture at full "
    "strength.",
    "range": "The range of steps of positive ({keys}) does not act: a prompt rules every step. To change prompts while "
    "the video runs, wire SFPP Prompt Schedule.",
    "control": "The ControlNet on positive ({keys}) does not act: this sampler has no control input. The video follows "
    "the text alone.",
    "picture": "The picture in positive ({keys}) does not act: the sampler runs text-to-video models. To begin from a "
    "picture or a video, wire it through VAE Encode into start of SFPP Sampler.",
    "reference": "The reference in positive ({keys}) does not act: the sampler runs plain text-to-video models, which "
    "read no reference pictures, poses, cameras or sounds. The video follows the text alone.",
    "setting": "A setting in positive ({keys}) does not act: it is made for another kind of model. Length and size are "
    "widgets of SFPP Sampler, and there is no guidance.",
    "unknown": "positive carries {keys}, which the sampler does not know: nothing here reads it. The video follows the "
    "text alone.",
}


def scheduled(conditioning: list[list[Any]], *, seconds: float, crossfade: float, recache: bool) -> list[list[Any]]:
    """CONDITIONING of one prompt, to rule from a time on."""
    times = {SECONDS: seconds, CROSSFADE: crossfade, RECACHE: recache}
    return [[embedding, {**extras, **times}] for embedding, extras in conditioning]


def _asks_for_nothing(key: str, value: Any) -> bool:
    """Whether a node was left at what changes nothing."""
    return key in NEUTRAL and value == NEUTRAL[key]


def prompt_sentences(conditioning: list[list[Any]]) -> tuple[str, ...]:
    """What CONDITIONING holds beside texts and times, which does not act: a sentence for each kind."""
    all_extras = [item for _, extras in conditioning for item in extras.items()]
    held = {str(key) for key, value in all_extras if value is not None and not _asks_for_nothing(key, value)}
    left, said = sorted(held - UNDERSTOOD - {SECONDS, CROSSFADE, RECACHE}), []
    for purpose, known in OF_PROMPT.items():
        if keys := [key for key in left if key in known]:
            said.append(EXPECT[purpose].format(keys=", ".join(keys)))
        left = [key for key in left if key not in known]
    if left:
        said.append(EXPECT["unknown"].format(keys=", ".join(left)))
    return tuple(said)


def direction_of(conditioning: list[list[Any]], text_dim: int) -> Direction:
    """What a film is to follow: one prompt, or a schedule of them.

    Raises ValueError if there is none, if several have no times, or if one was encoded for another model.
    """
    if not conditioning:
        raise ValueError("positive holds no prompt. Wire a CLIP Text Encode or an SFPP Prompt Schedule into it.")
    if len(conditioning) > 1 and any(SECONDS not in extras for _, extras in conditioning):
        raise ValueError(
            f"positive holds {len(conditioning)} prompts; a film follows one at a time. Wire one CLIP Text Encode "
            "into it, without Combine, or give the prompts times with SFPP Prompt Schedule."
        )
    return Direction([_cue(embedding, extras, text_dim) for embedding, extras in conditioning])


def _cue(embedding: Tensor, extras: dict[str, Any], text_dim: int) -> Cue:
    if embedding.ndim != 3 or embedding.shape[-1] != text_dim:
        raise ValueError(
            f"positive is {embedding.shape[-1]} wide, but this MODEL reads prompts that are {text_dim} wide. Encode "
            "the prompt with the model's own text encoder: UMT5 (Load CLIP, type wan) for Wan 2.1, the clip of SFPP "
            "Load Tiny for the built-in model."
        )
    if embedding.shape[0] != 1:
        raise ValueError(
            f"positive holds a batch of {embedding.shape[0]} prompts; the sampler makes one film at a time."
        )
    return Cue(
        text=embedding,
        seconds=extras.get(SECONDS, 0.0),
        crossfade=extras.get(CROSSFADE, 0.0),
        recache=extras.get(RECACHE, False),
    )


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


class PromptSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SFPPPromptSchedule",
            display_name="SFPP Prompt Schedule",
            category=CATEGORY,
            **search_aliases("prompt travel", "timeline", "storyboard", "self forcing", "long video"),
            description="Prompts with the times of the film at which they begin, for SFPP Sampler and SFPP Extend. "
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
    def validate_inputs(cls, lines: str | None = None) -> bool | str:
        """Refuse a schedule that cannot be read before anything is loaded; one that is wired in is read later."""
        if lines is None:
            return True
        try:
            parse_timed_lines(lines)
        except ValueError as error:
            return str(error)
        return True

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
        report.add("\n".join(f"{spoken_time(prompt.seconds)} {prompt.prompt}" for prompt in prompts))
        return io.NodeOutput(schedule, ui=report.ui())


class PromptAt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SFPPPromptAt",
            display_name="SFPP Prompt At",
            category=CATEGORY,
            **search_aliases("prompt travel", "timeline", "storyboard", "self forcing"),
            description="Gives a prompt the time of the film at which it begins, and adds it to a schedule: for "
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
                    tooltip="When it begins, in seconds from the beginning of the film. The first prompt of a film "
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
