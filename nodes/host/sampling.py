"""Running a rollout on a MODEL: identity and preset of the model, memory, device, progress."""

from __future__ import annotations

import logging

import comfy.model_management as memory
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...sfpp_core.checkpoint import Preset, open_checkpoint
from ...sfpp_core.rollout.config import RolloutConfig
from ...sfpp_core.rollout.kv_cache import RollingKVCache
from ...sfpp_core.rollout.rollout import Rollout
from ...sfpp_core.rollout.state import RolloutState
from ...sfpp_core.tiny.family import weights_path
from ...sfpp_core.wan.geometry import WAN21
from .network import HostNetwork, compute_dtype, wan_config
from .progress import SamplingProgress

logger = logging.getLogger(__name__)

PRESET_OPTION = "sfpp_preset"
"""Key of the MODEL's preset in its model_options, which clones and LoRA loaders carry along."""


def preset_settings(model: ModelPatcher) -> RolloutConfig:
    """The rollout settings that the MODEL was trained for, as far as it tells; Self-Forcing's otherwise.

    Raises ValueError as `wan_config`.
    """
    preset: Preset | None = model.model_options.get(PRESET_OPTION)
    if preset is not None:
        return preset.rollout
    built_in = open_checkpoint(weights_path("student"))
    # ComfyUI's own loader reads no settings, and no other model is as small.
    if wan_config(model) == built_in.config:
        return built_in.preset.rollout
    logger.info("This MODEL names no preset (SFPP Load Model sets one); starting from Self-Forcing's settings.")
    return RolloutConfig()


def sample_chunks(model: ModelPatcher, state: RolloutState, text: Tensor, num_chunks: int) -> RolloutState:
    """The state after `num_chunks` more chunks, made on the MODEL's device while ComfyUI manages its weights.

    Raises ValueError if the MODEL or the text do not fit; ComfyUI's own exceptions (interrupt, out of memory) pass.
    """
    memory.load_models_gpu([model], memory_required=_memory_required(model, state))
    model.pre_run()
    try:
        rollout = Rollout(
            HostNetwork(model),
            state,
            text,
            device=model.load_device,
            dtype=compute_dtype(model),
            on_call=SamplingProgress(model),
        )
        for _ in rollout.run(num_chunks):
            continue
        return rollout.state
    finally:
        model.cleanup()


def _memory_required(model: ModelPatcher, state: RolloutState) -> float:
    """Bytes to keep free of weights: ComfyUI's estimate for one chunk, and the cache, which it knows nothing of."""
    batch, channels, height, width = state.shape
    activations = model.memory_required([batch, channels, state.config.chunk, height, width])
    return activations + RollingKVCache.estimate_nbytes(
        wan_config(model),
        state.config,
        batch=batch,
        tokens_per_frame=WAN21.tokens_per_frame(height, width),
        dtype=compute_dtype(model),
    )
