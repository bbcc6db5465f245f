"""Progress bar, live preview, messages and interruption of long work, as ComfyUI does them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import latent_preview
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.model_patcher import ModelPatcher
from comfy.utils import ProgressBar
from comfy_execution.utils import get_executing_context
from server import PromptServer
from torch import Tensor

from ...sfpp_core.rollout.pace import Pace, spoken
from ...sfpp_core.rollout.rollout import Progress
from ...sfpp_core.rollout.state import RolloutState
from ...sfpp_core.wan.config import FRAMES_PER_SECOND, WAN21
from .projector import Picture, Projector
from .wired import latent_format

if TYPE_CHECKING:
    from .report import Report

logger = logging.getLogger(__name__)

BAR_SECONDS, WORDS_SECONDS = 0.1, 0.5
"""From one message to the next at least."""


class SamplingProgress:
    """The making of some chunks: the bar at every network call, words at every chunk, and a preview that plays.

    A context manager, because the preview plays in a thread.
    """

    def __init__(
        self,
        model: ModelPatcher,
        state: RolloutState,
        num_chunks: int,
        report: Report,
        *,
        previews_per_second: float | None = None,
    ) -> None:
        """state: the film before its first new chunk. report: is given what is still to be known after the end.

        previews_per_second: of the pictures that `finished` is given; None has ComfyUI's previewer make them.
        """
        self._bar = InterruptibleBar()
        self._previewer = None
        if previews_per_second is None:
            previews_per_second = FRAMES_PER_SECOND / WAN21.temporal_stride
            self._previewer = latent_preview.get_previewer(model.load_device, latent_format(model))
        self._projector = Projector(previews_per_second, max(state.shape[2:]) * WAN21.spatial_stride)
        self._before = state
        self._num_chunks = num_chunks
        self._report = report
        self._seconds = WAN21.seconds(state.config.frames_after(num_chunks, made=state.num_frames))
        self._reused = 0
        self._pace = Pace()
        self._words_pause = Pause(WORDS_SECONDS)

    def __enter__(self) -> SamplingProgress:
        self._projector.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._projector.__exit__(*error)

    def called(self, progress: Progress) -> None:
        """As an OnCall. Raises ComfyUI's interrupt."""
        done = progress.chunk - len(self._before.chunks) + progress.call / progress.num_calls
        self._projector.stands_at(done, self._num_chunks)
        if progress.x0 is not None:
            self._projector.at_work(self._pictures(progress.x0))
        self._bar.update(done, self._num_chunks)

    def finished(self, state: RolloutState, *, is_reused: bool, pictures: Sequence[Picture] = ()) -> None:
        """A chunk is finished; `state` is the film with it. Raises ComfyUI's interrupt.

        pictures: how it looks, if they were not left to ComfyUI's previewer.
        """
        self._projector.at_work(pictures or self._pictures(state.chunks[-1].latents))
        self._projector.finished()
        self._pace.finished(is_reused=is_reused)
        self._reused += is_reused
        done = len(state.chunks) - len(self._before.chunks)
        self._bar.update(done, self._num_chunks)
        is_last = done == self._num_chunks
        if not (is_last or self._words_pause.is_over()):
            return
        left = self._pace.seconds_left(self._num_chunks - done)
        parts = [
            f"chunk {done} of {self._num_chunks}",
            f"{WAN21.seconds(state.num_frames):.1f} of {self._seconds:.1f} s",
            *([f"{self._reused} reused from disk"] if self._reused else []),
            *([f"about {spoken(left)} left"] if left else []),
        ]
        say(" · ".join(parts), log=is_last)
        if is_last and self._reused:
            self._report.add(f"{self._reused} of {self._num_chunks} chunks were reused from disk.")

    def stopped(self, film: RolloutState, num_kept: int) -> None:
        """Something ended the making early, when so many of the film's chunks were on disk."""
        if (done := num_kept - len(self._before.chunks)) > 0:
            seconds = WAN21.seconds(sum(chunk.num_frames for chunk in film.chunks[:num_kept]))
            self._report.add(
                f"{done} of {self._num_chunks} chunks are finished and kept on disk: {seconds:.1f} s of film. Queue "
                "the same workflow again to go on from there."
            )

    def _pictures(self, latents: Tensor) -> list[Picture]:
        """One a latent frame of [B, C, T, H, W], by ComfyUI's previewer; none if previews are off."""
        if self._previewer is None:
            return []
        # ComfyUI's previewers show the first frame that they are given.
        show = self._previewer.decode_latent_to_preview_image
        return [partial(show, "JPEG", frame) for frame in latents.split(1, dim=2)]


class InterruptibleBar:
    """A progress bar that never misses an interrupt.

    ComfyUI's own asks too, but from 0.9.2 on it is throttled: between its updates an interrupt would go unseen. What it
    sends is throttled here for all versions: a small model makes a hundred calls a second.
    """

    def __init__(self) -> None:
        self._bar = ProgressBar(1)
        self._pause = Pause(BAR_SECONDS)

    def update(self, done: float, total: int) -> None:
        """Raises InterruptProcessingException if the artist has stopped the run."""
        interrupt_if_asked()
        if done >= total or self._pause.is_over():
            self._bar.update_absolute(done, total)


class Pause:
    """Tells what may be sent again from what would be too much."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = -math.inf

    def is_over(self) -> bool:
        """Whether so much time has gone by since this was last true."""
        now = time.monotonic()
        if now < self._until:
            return False
        self._until = now + self._seconds
        return True


def interrupt_if_asked() -> None:
    """Raise ComfyUI's InterruptProcessingException if the artist has stopped the run."""
    throw_exception_if_processing_interrupted()


def say(text: str, *, log: bool = True) -> None:
    """Tell the artist how the work of a node goes: under the node in the page and, with `log`, in the log.

    Newer pages wipe it when the run ends; what is to be known afterwards goes into the node's Report.
    """
    if log:
        logger.info(text)
    context = get_executing_context()
    server = getattr(PromptServer, "instance", None)
    if context is not None and server is not None:
        server.send_progress_text(text, context.node_id)
