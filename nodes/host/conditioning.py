"""ComfyUI's CONDITIONING as the direction that a rollout follows.

A prompt schedule travels as CONDITIONING too: one entry a prompt, with times beside the embedding. So stock nodes pass
it on, and a plain prompt is a schedule of one.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...sfpp_core.rollout.direction import Cue, Direction

UNDERSTOOD = {"pooled_output", "attention_mask"}
"""Keys that a text encoder adds and that Wan does not need: padding is already zeroed in the embedding."""

SECONDS, CROSSFADE, RECACHE = "sfpp_seconds", "sfpp_crossfade", "sfpp_recache"
"""Keys of a scheduled prompt; see sfpp_core's Cue."""


def scheduled(conditioning: list[list[Any]], *, seconds: float, crossfade: float, recache: bool) -> list[list[Any]]:
    """CONDITIONING of one prompt, to rule from a time on."""
    times = {SECONDS: seconds, CROSSFADE: crossfade, RECACHE: recache}
    return [[embedding, {**extras, **times}] for embedding, extras in conditioning]


def carried(conditioning: list[list[Any]]) -> list[str]:
    """Names of what CONDITIONING holds beside texts and times, sorted; None counts as nothing."""
    held = {str(key) for _, extras in conditioning for key, value in extras.items() if value is not None}
    return sorted(held - UNDERSTOOD - {SECONDS, CROSSFADE, RECACHE})


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
