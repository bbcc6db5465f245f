"""ComfyUI's CONDITIONING as the text a rollout follows."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

logger = logging.getLogger(__name__)

UNDERSTOOD = {"pooled_output", "attention_mask"}
"""Keys that a text encoder adds and that Wan does not need: padding is already zeroed in the embedding."""


def text_embedding(conditioning: list[list[Any]], text_dim: int) -> Tensor:
    """The prompt's embedding [1, L, text_dim], of whatever dtype and device it has.

    Raises ValueError if there is not exactly one prompt, or if it was encoded for another model.
    """
    if len(conditioning) != 1:
        raise ValueError(
            f"positive holds {len(conditioning)} prompts; a film follows one at a time. Wire one CLIP Text Encode "
            "into it, without Combine, and change prompts with SFPP Extend."
        )
    embedding, extras = conditioning[0]
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
    if ignored := sorted(set(extras) - UNDERSTOOD):
        logger.warning("positive carries %s, which a causal rollout does not use.", ", ".join(ignored))
    return embedding
