"""Progress bar, live preview, messages and interrupts of long work, as ComfyUI does them.

The preview plays a video's latest seconds over and over, in the place of ComfyUI's still pictures.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from types import TracebackType
from typing import TYPE_CHECKING, Any

import latent_preview
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.model_patcher import ModelPatcher
from comfy.utils import ProgressBar
from comfy_api import feature_flags
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from protocol import BinaryEventTypes
from server import PromptServer
from torch import Tensor

from ...sfpp_core.rollout.rollout import CallProgress
from ...sfpp_core.rollout.state import RolloutState
from ...sfpp_core.wan.config import FRAMES_PER_SECOND, WAN21
from .wired import latent_format

if TYPE_CHECKING:
    from .report import Report

logger = logging.getLogger(__name__)

SECONDS = 5.0
"""How much of the video is played: what a window of 21 latent frames holds."""
SMALL_SIDE = 256
"""Pixels. ComfyUI enlarges previews to twice that and more, which says nothing new of a video that is no larger."""

Preview = tuple[str, Any, int | None]
"""What ComfyUI sends: format, PIL image, and the side that it is scaled to."""
Picture = Callable[[], Preview]
"""Makes its preview when it is shown. Few of a fast video's are."""


class PreviewPlayer:
    """A context manager that plays what it is given, in a thread of its own, at the video's own speed.

    Every client that shows ComfyUI's previews shows this one: it is the same message, sent more often.
    """

    def __init__(self, per_second: float, video_side: int) -> None:
        """per_second: pictures a second of video. video_side: the longer side of the video in pixels."""
        self._per_second = per_second
        self._most_side = max(video_side, SMALL_SIDE)
        self._video: deque[Picture] = deque(maxlen=round(SECONDS * per_second))
        self._at_work: Sequence[Picture] = ()
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._has_something = threading.Event()
        self._send = _sender()
        self._thread = threading.Thread(target=self._play, name="sfpp-preview", daemon=True)
        self._position = (0.0, 1)

    def __enter__(self) -> PreviewPlayer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._has_something.set()
        self._thread.join()

    def at_work(self, pictures: Sequence[Picture]) -> None:
        """Follow the video as it looks now, in place of what was shown before."""
        with self._lock:
            self._at_work = tuple(pictures)
        if pictures:
            self._has_something.set()

    def finished(self) -> None:
        """Take the running chunk into the finished video."""
        with self._lock:
            self._video.extend(self._at_work)
            self._at_work = ()

    def stands_at(self, done: float, total: int) -> None:
        """Set where the node's bar is, which the message repeats."""
        self._position = (done, total)

    @torch.inference_mode()
    def _play(self) -> None:
        self._has_something.wait()
        while not self._is_over.is_set():
            with self._lock:
                pictures = [*self._video, *self._at_work]
            for picture in pictures:
                self._send(self._of_its_size(picture()), *self._position)
                if self._is_over.wait(1 / self._per_second):
                    return
            if not pictures:  # there were some, which nobody gave again
                self._is_over.wait(1 / self._per_second)

    def _of_its_size(self, preview: Preview) -> Preview:
        form, image, side = preview
        return form, image, side and min(side, self._most_side)


def _sender() -> Callable[[Preview, float, int], None]:
    """Return what sends previews for the node that is running now.

    ComfyUI's own progress bar also asks for interrupts, which belong to the node's thread, and knows the running node
    only there.
    """
    context = get_executing_context()
    server = getattr(PromptServer, "instance", None)
    if context is None or server is None:
        return _send_nothing
    node_id, registry = context.node_id, get_progress_state()

    def send(picture: Preview, done: float, total: int) -> None:
        client = server.client_id
        registry.update_progress(node_id, done, total, picture)
        if not feature_flags.supports_feature(server.sockets_metadata, client, "supports_preview_metadata"):
            server.send_sync(BinaryEventTypes.UNENCODED_PREVIEW_IMAGE, picture, client)

    return send


def _send_nothing(picture: Preview, done: float, total: int) -> None:
    del picture, done, total


LATEST = 7
"""Chunks that the pace is judged by. A median of them takes no notice of one that had to wait for the disk."""


class ChunkPace:
    """Told of every chunk when it is finished."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds from any beginning on, never going back."""
        self._clock = clock
        self._last = clock()
        self._seconds: deque[float] = deque(maxlen=LATEST)
        self._is_first = True

    def finished(self, *, is_reused: bool) -> None:
        """A chunk is there: made, or found on disk."""
        now = self._clock()
        # The first one made pays for loading weights and warming kernels, and for replaying the video before it.
        if not is_reused and not self._is_first:
            self._seconds.append(now - self._last)
        self._is_first = self._is_first and is_reused
        self._last = now

    def seconds_left(self, num_chunks: int) -> float | None:
        """Return how long `num_chunks` more chunks take; None as long as nobody can know."""
        return median(self._seconds) * num_chunks if self._seconds else None


def spoken(seconds: float) -> str:
    """A time as one says it: 40 s, 3 min, 1 h 20 min."""
    if seconds < 55:
        return f"{max(1, round(seconds)) if seconds < 10 else 5 * round(seconds / 5)} s"
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


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
        """state: the video before its first new chunk. report: is given what is still to be known after the end.

        previews_per_second: of the pictures that `finished` is given; None has ComfyUI's previewer make them.
        """
        self._bar = InterruptibleBar()
        self._previewer = None
        if previews_per_second is None:
            previews_per_second = FRAMES_PER_SECOND / WAN21.temporal_stride
            self._previewer = latent_preview.get_previewer(model.load_device, latent_format(model))
        self._projector = PreviewPlayer(previews_per_second, max(state.shape[2:]) * WAN21.spatial_stride)
        self._before = state
        self._num_chunks = num_chunks
        self._report = report
        self._seconds = WAN21.seconds(state.config.frames_after(num_chunks, made=state.num_frames))
        self._reused = 0
        self._pace = ChunkPace()
        self._words_pause = Pause(WORDS_SECONDS)

    def __enter__(self) -> SamplingProgress:
        self._projector.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._projector.__exit__(*error)

    def called(self, progress: CallProgress) -> None:
        """Report a call, as an OnCall. Raises ComfyUI's interrupt."""
        done = progress.chunk - len(self._before.chunks) + progress.call / progress.num_calls
        self._projector.stands_at(done, self._num_chunks)
        if progress.x0 is not None:
            self._projector.at_work(self._pictures(progress.x0))
        self._bar.update(done, self._num_chunks)

    def finished(self, state: RolloutState, *, is_reused: bool, pictures: Sequence[Picture] = ()) -> None:
        """A chunk is finished; `state` is the video with it. Raises ComfyUI's interrupt.

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

    def stopped(self, video: RolloutState, num_kept: int) -> None:
        """Something ended the making early, when so many of the video's chunks were on disk."""
        if (done := num_kept - len(self._before.chunks)) > 0:
            seconds = WAN21.seconds(sum(chunk.num_frames for chunk in video.chunks[:num_kept]))
            self._report.add(
                f"{done} of {self._num_chunks} chunks are finished and kept on disk: {seconds:.1f} s of video. Queue "
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
        """Return whether so much time has gone by since this was last true."""
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
