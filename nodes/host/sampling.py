"""Running a rollout on a MODEL: identity and preset of the model, memory, device, progress, and what is kept."""

from __future__ import annotations

import logging

import comfy.model_management as memory
from comfy.model_patcher import ModelPatcher

from ...sfpp_core.checkpoint import Preset, open_checkpoint
from ...sfpp_core.rollout.cache_memory import CacheStorage
from ...sfpp_core.rollout.config import RolloutConfig
from ...sfpp_core.rollout.direction import Direction
from ...sfpp_core.rollout.memory_advice import Demand
from ...sfpp_core.rollout.rollout import Rollout
from ...sfpp_core.rollout.state import RolloutState
from ...sfpp_core.spool.filming import film_on
from ...sfpp_core.tiny.family import weights_path
from . import partial_deliveries
from .attention import attention_name
from .memory import PinnedMemory, answering_out_of_memory, demand_of, require_memory
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
    model: ModelPatcher,
    state: RolloutState,
    direction: Direction,
    num_chunks: int,
    *,
    offloaded: bool,
    deliver_on_interrupt: bool,
) -> RolloutState:
    """The state after `num_chunks` more chunks, made on the MODEL's device while ComfyUI manages its weights.

    Every finished chunk is kept on disk, and none that is there is made again. offloaded: whether the cache rests in
    CPU memory. deliver_on_interrupt: whether an interrupt ends the film early instead of the workflow, if a chunk is
    finished.
    Raises ValueError if the MODEL, the text or the memory do not fit, SpoolError if the disk is full, and out of memory
    with a text that says what to change; ComfyUI's own interrupt passes.
    """
    # Where the CPU computes, its memory is where the cache rests anyway.
    storage = CacheStorage(form=state.cache_form, offloaded=offloaded and model.load_device.type != "cpu")
    demand = demand_of(model, state, storage)
    require_memory(model.load_device, demand)
    with answering_out_of_memory(model.load_device, demand):
        # No name for the film here: it would keep the film's memory while what is free is counted.
        return _made(_Film(model, state, direction, num_chunks, demand), deliver_on_interrupt=deliver_on_interrupt)


def _made(film: _Film, *, deliver_on_interrupt: bool) -> RolloutState:
    num_before = len(film.state.chunks)
    try:
        film.make()
    except memory.InterruptProcessingException:
        if not deliver_on_interrupt or len(film.state.chunks) == num_before:
            raise
        partial_deliveries.count()
    return film.state


class _Film:
    """A film at work on a MODEL."""

    def __init__(
        self, model: ModelPatcher, state: RolloutState, direction: Direction, num_chunks: int, demand: Demand
    ) -> None:
        self._model = model
        self._demand = demand
        self._cpu_memory = PinnedMemory()
        self._direction = direction
        self._num_chunks = num_chunks
        self._progress = SamplingProgress(model, state, num_chunks)
        self._rollout = Rollout(
            HostNetwork(model),
            state,
            direction.ruling(state).text,
            device=model.load_device,
            dtype=compute_dtype(model),
            cache_memory=self._cpu_memory if demand.storage.offloaded else None,
            on_call=self._progress.called,
        )

    @property
    def state(self) -> RolloutState:
        """The film so far."""
        return self._rollout.state

    def make(self) -> None:
        """Make all that is not on disk."""
        with self._cpu_memory, self._progress, open_spool().film(self.state, _circumstances(self._model)) as spool:
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
        needed = self._demand.step + self._demand.cache(self._demand.storage).device
        memory.load_models_gpu([self._model], memory_required=needed)
        self._model.pre_run()


def _circumstances(model: ModelPatcher) -> dict[str, str]:
    """What decides the bits of a film besides weights, settings and texts."""
    return {
        "device": model.load_device.type,
        "compute": str(compute_dtype(model)),
        "weights": str(model.model_dtype()),
        "attention": attention_name(),
    }
