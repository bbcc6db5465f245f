"""Running a rollout on a MODEL: identity and preset of the model, memory, device, progress, and what is kept."""

from __future__ import annotations

import logging

import comfy.model_management as memory
from comfy.model_patcher import ModelPatcher

from ...sfpp_core.checkpoint import Preset, open_checkpoint
from ...sfpp_core.rollout.config import RolloutConfig
from ...sfpp_core.rollout.direction import Direction
from ...sfpp_core.rollout.kv_cache import RollingKVCache
from ...sfpp_core.rollout.rollout import Rollout
from ...sfpp_core.rollout.state import RolloutState
from ...sfpp_core.spool.filming import film_on
from ...sfpp_core.tiny.family import weights_path
from ...sfpp_core.wan.geometry import WAN21
from . import partial_deliveries
from .attention import attention_name
from .network import HostNetwork, compute_dtype, wan_config
from .progress import SamplingProgress
from .spool import open_spool

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


def sample_chunks(
    model: ModelPatcher, state: RolloutState, direction: Direction, num_chunks: int, *, deliver_on_interrupt: bool
) -> RolloutState:
    """The state after `num_chunks` more chunks, made on the MODEL's device while ComfyUI manages its weights.

    Every finished chunk is kept on disk, and none that is there is made again. deliver_on_interrupt: whether an
    interrupt ends the film early instead of the workflow, if a chunk is finished.
    Raises ValueError if the MODEL or the text do not fit, SpoolError if the disk is full; ComfyUI's own exceptions
    (interrupt, out of memory) pass.
    """

    film = _Film(model, state, direction, num_chunks)
    try:
        film.make()
    except memory.InterruptProcessingException:
        if not deliver_on_interrupt or len(film.state.chunks) == len(state.chunks):
            raise
        partial_deliveries.count()
    return film.state


class _Film:
    """A film at work on a MODEL."""

    def __init__(self, model: ModelPatcher, state: RolloutState, direction: Direction, num_chunks: int) -> None:
        self._model = model
        self._direction = direction
        self._num_chunks = num_chunks
        self._progress = SamplingProgress(model, state, num_chunks)
        self._rollout = Rollout(
            HostNetwork(model),
            state,
            direction.ruling(state).text,
            device=model.load_device,
            dtype=compute_dtype(model),
            on_call=self._progress.called,
        )

    @property
    def state(self) -> RolloutState:
        """The film so far."""
        return self._rollout.state

    def make(self) -> None:
        """Make all that is not on disk."""
        with self._progress, open_spool().film(self.state, _circumstances(self._model)) as spool:
            try:
                for filmed in film_on(
                    self._rollout, self._direction, self._num_chunks, spool, prepare=self._load_model
                ):
                    self._progress.finished(self.state, is_reused=filmed.is_reused)
            except BaseException:
                self._progress.stopped()
                raise
            finally:
                self._model.cleanup()

    def _load_model(self) -> None:
        memory.load_models_gpu([self._model], memory_required=_memory_required(self._model, self.state))
        self._model.pre_run()


def _circumstances(model: ModelPatcher) -> dict[str, str]:
    """What decides the bits of a film besides weights, settings and texts."""
    return {
        "device": model.load_device.type,
        "compute": str(compute_dtype(model)),
        "weights": str(model.model_dtype()),
        "attention": attention_name(),
    }


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
