"""Running a rollout on a MODEL: identity and preset of the model, memory, device, progress, and what is kept."""

from __future__ import annotations

import logging
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management as memory
import folder_paths
from comfy.model_patcher import ModelPatcher

from ...sfpp_core.checkpoint import Preset, open_checkpoint
from ...sfpp_core.checkpoint.errors import first_few
from ...sfpp_core.chunk_store.eviction import clean
from ...sfpp_core.chunk_store.store import ChunkStore, NonFiniteChunkError, VideoChunks, resume_rollout
from ...sfpp_core.rollout.config import RolloutConfig
from ...sfpp_core.rollout.memory import CacheStorage, MemoryEstimate
from ...sfpp_core.rollout.prompt_schedule import PromptSchedule
from ...sfpp_core.rollout.rollout import Rollout
from ...sfpp_core.rollout.state import RolloutState
from ...sfpp_core.tiny.family import weights_path
from .files import SPOOL_FOLDER
from .fingerprint import Environment, environment_of
from .live_video import PREVIEWS_PER_SECOND, LiveVideo
from .memory import PinnedMemory, answering_out_of_memory, memory_estimate, require_memory
from .model import HostNetwork, Latent, to_latent
from .progress import SamplingProgress
from .report import Report
from .wired import castable, compute_dtype, wan_config

logger = logging.getLogger(__name__)

_unfinished_deliveries = 0


def unfinished_deliveries() -> int:
    """Return how many videos were delivered unfinished since the server began, as part of a sampler's cache key.

    ComfyUI remembers what a node gave and does not ask it again for the same inputs, but a video that an interrupt
    cut short must go on when the workflow is queued again.
    """
    return _unfinished_deliveries


def _count_unfinished_delivery() -> None:
    global _unfinished_deliveries
    _unfinished_deliveries += 1


GIGABYTES_VARIABLE, DEFAULT_GIGABYTES = "SFPP_SPOOL_GB", 20.0
DAYS_VARIABLE, DEFAULT_DAYS = "SFPP_SPOOL_DAYS", 14.0
"""Environment variables: machines differ in their disks, workflows do not."""


@contextmanager
def kept_video(state: RolloutState, environment: Environment) -> Iterator[VideoChunks]:
    """The finished chunks of a video that go on from `state`; videos that nobody uses make room for it.

    Where the environment does not tell all, none is kept or found. Raises ValueError for a limit in the environment
    that is no number.
    """
    root = Path(folder_paths.get_output_directory(), SPOOL_FOLDER)
    limits = _limit(GIGABYTES_VARIABLE, DEFAULT_GIGABYTES), _limit(DAYS_VARIABLE, DEFAULT_DAYS)
    parts = dict(environment.parts)
    if environment.untold:
        # A folder of its own, for what grows beside the sampler.
        parts["untold"] = secrets.token_hex(16)
    with ChunkStore(root).video(state, parts, keeps=not environment.untold) as video:
        # Now that it is held: this video may be the one that was not used for longest.
        _clean(root, *limits)
        yield video


def _clean(root: Path, gigabytes: float, days: float) -> None:
    try:
        cleaned = clean(root, most_bytes=int(gigabytes * 1e9), most_seconds=days * 86400)
    except OSError as problem:
        # A folder that somebody removes by hand meanwhile, or another user's: no reason to make no video.
        logger.warning("The folder of kept chunks could not be cleaned: %s", problem)
        return
    if cleaned.folders:
        logger.info(
            "Removed %d videos from the folder of kept chunks (%.2f GB); %.2f GB are left. %s and %s set its limits.",
            cleaned.folders,
            cleaned.freed / 1e9,
            cleaned.left / 1e9,
            GIGABYTES_VARIABLE,
            DAYS_VARIABLE,
        )


def _limit(variable: str, default: float) -> float:
    """A limit from the environment. Raises ValueError naming the variable if it is no number from 0 on."""
    text = os.environ.get(variable, "")
    try:
        limit = float(text) if text else default
    except ValueError:
        limit = math.nan
    if not 0 <= limit < math.inf:
        raise ValueError(f"the environment variable {variable} is {text!r}; set it to a number such as {default:g}.")
    return limit


PRESET_OPTION = "sfpp_preset"
"""Key of the MODEL's preset in its model_options, which clones and LoRA loaders carry along."""


def preset_settings(model: ModelPatcher, report: Report) -> RolloutConfig:
    """Return the rollout settings that the MODEL was trained for, as far as it tells.

    Otherwise they are Self-Forcing's, and the report says so.

    Raises:
        ValueError: as `wan_config`.
    """
    preset: Preset | None = model.model_options.get(PRESET_OPTION)
    if preset is not None:
        return preset.rollout
    built_in = open_checkpoint(weights_path("student"))
    # ComfyUI's own loader reads no settings, and no other model is as small.
    if wan_config(model) == built_in.config:
        return built_in.preset.rollout
    report.add(
        "MODEL names no preset, so what its author trained it with is not known: the widgets chunk to context_noise "
        "start from Self-Forcing's settings. If it is another kind of model, load it with SFPP Load Model and choose "
        "its preset there, or set these widgets."
    )
    return RolloutConfig()


MOST_NAMED = 3
"""Changes of a MODEL in one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunOptions:
    """The choices of how a video is made that do not change it."""

    offloaded: bool
    """Whether the cache rests in CPU memory."""
    deliver_on_interrupt: bool
    """Whether an interrupt ends the video early instead of the workflow, if a chunk is finished."""
    upstream: str | None = None
    """Digest of the part of the workflow that made the MODEL, see `upstream_digest`."""
    vae: Any = None
    """ComfyUI's VAE that shows the video while it is made; None shows what ComfyUI's previewer makes of its latents."""


def sample_chunks(
    model: ModelPatcher,
    state: RolloutState,
    schedule: PromptSchedule,
    num_chunks: int,
    options: RunOptions,
    report: Report,
) -> tuple[RolloutState, Latent]:
    """Make `num_chunks` more chunks on the MODEL's device, while ComfyUI manages its weights.

    Every finished chunk is kept on disk, and none that is there is made again. What the artist should know afterwards
    is added to the report, which the page shows even if this fails.

    Returns:
        The new state, and all of the video as LATENT.

    Raises:
        ValueError: the MODEL, the VAE, the prompt or the memory do not fit.
        ChunkStoreError: the disk is full.

    Out of memory passes with a text that says what to change, ComfyUI's interrupt as it is.
    """
    model = castable(model)
    # Where the CPU computes, its memory is where the cache rests anyway.
    storage = CacheStorage(form=state.cache_form, offloaded=options.offloaded and model.load_device.type != "cpu")
    estimate = memory_estimate(model, state, storage)
    require_memory(model.load_device, estimate)
    with report.shown_on_failure(), answering_out_of_memory(model.load_device, estimate):
        # No name for the video here: it would keep the video's memory while what is free is counted.
        return _made(_Video(model, state, schedule, num_chunks, estimate, options, report), options)


def _made(video: _Video, options: RunOptions) -> tuple[RolloutState, Latent]:
    num_before = len(video.state.chunks)
    try:
        video.make()
    except memory.InterruptProcessingException:
        if not options.deliver_on_interrupt or len(video.state.chunks) == num_before:
            raise
        _count_unfinished_delivery()
    return video.state, video.latent()


class _Video:
    """A video at work on a MODEL."""

    def __init__(
        self,
        model: ModelPatcher,
        state: RolloutState,
        schedule: PromptSchedule,
        num_chunks: int,
        estimate: MemoryEstimate,
        options: RunOptions,
        report: Report,
    ) -> None:
        self._model = model
        self._estimate = estimate
        self._upstream = options.upstream
        self._report = report
        self._live = None if options.vae is None else LiveVideo(model, options.vae, state, report)
        self._cpu_memory = PinnedMemory()
        self._schedule = schedule
        self._num_chunks = num_chunks
        self._progress = SamplingProgress(
            model, state, num_chunks, report, previews_per_second=None if options.vae is None else PREVIEWS_PER_SECOND
        )
        self._rollout = Rollout(
            HostNetwork(model),
            state,
            schedule.active_prompt(state).text,
            device=model.load_device,
            dtype=compute_dtype(model),
            cache_memory=self._cpu_memory if estimate.storage.offloaded else None,
            on_call=self._progress.called,
        )

    @property
    def state(self) -> RolloutState:
        """The video so far."""
        return self._rollout.state

    def latent(self) -> Latent:
        """Return the whole video as LATENT, with the live video that was made of it."""
        latent = to_latent(self._model, self.state.latents)
        return latent if self._live is None else latent | self._live.record(latent["samples"])

    def make(self) -> None:
        """Make all that is not on disk."""
        with ExitStack() as resources:
            resources.enter_context(self._cpu_memory)
            resources.enter_context(self._progress)
            resources.callback(self._model.cleanup)
            # First of all: what decides the bits of a video is asked of the MODEL as it is when it is loaded.
            self._load()
            environment = environment_of(self._model, self._upstream)
            if environment.untold:
                self._report.add(_not_kept(environment.untold))
            kept = resources.enter_context(kept_video(self.state, environment))
            if self._live is not None:
                self._live.grow_in(kept.folder, kept.plan(self._schedule, self._num_chunks))
                resources.enter_context(self._live)
            try:
                self._make(kept)
            except BaseException:
                self._progress.stopped(self.state, kept.num_kept())
                raise

    def _make(self, kept: VideoChunks) -> None:
        try:
            for stored in resume_rollout(self._rollout, self._schedule, self._num_chunks, kept):
                pictures = () if self._live is None else self._live.push(stored.chunk.latents)
                self._progress.finished(self.state, is_reused=stored.is_reused, pictures=pictures)
        except NonFiniteChunkError as error:
            raise ValueError(
                f"{error} Load the model in bfloat16 or float32 instead of float16 or fp8 (weight_dtype), or lower the "
                "strength of its LoRAs, and queue again."
            ) from error
        kept.finish()

    def _load(self) -> None:
        needed = self._estimate.step + self._estimate.cache(self._estimate.storage).device
        beside = 0 if self._live is None else self._live.memory_required()
        # The VAE first, which has to be whole; then both at once: models of one call do not move each other away.
        companions = [] if self._live is None else self._live.load()
        memory.load_models_gpu([self._model, *companions], memory_required=needed + beside)
        self._model.pre_run()


def _not_kept(changes: tuple[str, ...]) -> str:
    named = first_few(list(changes), limit=MOST_NAMED)
    return (
        f"Finished chunks of this video are not kept: a node has put something into MODEL ({named}) that does "
        "not tell what it does, and a node before it may give something else each time. If the run ends early, it "
        "starts over. Take that node off the wire to MODEL to have chunks kept."
    )
