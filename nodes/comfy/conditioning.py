"""ComfyUI's CONDITIONING as the prompt schedule of a rollout.

A schedule travels as CONDITIONING too: one entry a prompt, with times beside the embeds. So stock nodes pass it on, and
a plain prompt is a schedule of one.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...sfpp_core.rollout.prompt_schedule import PromptSchedule, ScheduledPrompt

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
    "area": "The area, mask or strength of positive ({keys}) does not act: a prompt acts on the whole picture at full "
    "strength.",
    "range": "The range of steps of positive ({keys}) does not act: a prompt acts in every step. To change prompts "
    "while the video runs, wire SFPP Prompt Schedule.",
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
    """Return whether a node was left at what changes nothing."""
    return key in NEUTRAL and value == NEUTRAL[key]


def prompt_sentences(conditioning: list[list[Any]]) -> tuple[str, ...]:
    """Return what CONDITIONING holds beside texts and times, which does not act: a sentence for each kind."""
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


def schedule_of(conditioning: list[list[Any]], text_dim: int) -> PromptSchedule:
    """Return what a video is to follow: one prompt, or a schedule of them.

    Raises ValueError if there is none, if several have no times, or if one was encoded for another model.
    """
    if not conditioning:
        raise ValueError("positive holds no prompt. Wire a CLIP Text Encode or an SFPP Prompt Schedule into it.")
    if len(conditioning) > 1 and any(SECONDS not in extras for _, extras in conditioning):
        raise ValueError(
            f"positive holds {len(conditioning)} prompts; a video follows one at a time. Wire one CLIP Text Encode "
            "into it, without Combine, or give the prompts times with SFPP Prompt Schedule."
        )
    return PromptSchedule([_cue(embedding, extras, text_dim) for embedding, extras in conditioning])


def _cue(embedding: Tensor, extras: dict[str, Any], text_dim: int) -> ScheduledPrompt:
    if embedding.ndim != 3 or embedding.shape[-1] != text_dim:
        raise ValueError(
            f"positive is {embedding.shape[-1]} wide, but this MODEL reads prompts that are {text_dim} wide. Encode "
            "the prompt with the model's own text encoder: UMT5 (Load CLIP, type wan) for Wan 2.1, the clip of SFPP "
            "Load Tiny for the built-in model."
        )
    if embedding.shape[0] != 1:
        raise ValueError(
            f"positive holds a batch of {embedding.shape[0]} prompts; the sampler makes one video at a time."
        )
    return ScheduledPrompt(
        text=embedding,
        seconds=extras.get(SECONDS, 0.0),
        crossfade=extras.get(CROSSFADE, 0.0),
        recache=extras.get(RECACHE, False),
    )
