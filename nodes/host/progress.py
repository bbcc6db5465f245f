"""Progress bar, live preview, messages and interruption of long work, as ComfyUI does them."""

from __future__ import annotations

import logging
from typing import Any

import latent_preview
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.model_patcher import ModelPatcher
from comfy.utils import ProgressBar
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ...sfpp_core.rollout.rollout import Progress

logger = logging.getLogger(__name__)


class SamplingProgress:
    """Told after every network call: raises ComfyUI's interrupt, then moves the bar and shows the chunk at work."""

    def __init__(self, model: ModelPatcher) -> None:
        self._bar = InterruptibleBar()
        self._previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)

    def __call__(self, progress: Progress) -> None:
        self._bar.update(progress.done, progress.total, self._preview(progress))

    def _preview(self, progress: Progress) -> Any:
        if self._previewer is None or progress.x0 is None:
            return None
        # ComfyUI's previewers show the first frame that they are given: give them the newest.
        return self._previewer.decode_latent_to_preview_image("JPEG", progress.x0[:, :, -1:])


class InterruptibleBar:
    """A progress bar that never misses an interrupt.

    ComfyUI's own asks too, but from 0.9.2 on it is throttled: between its updates an interrupt would go unseen.
    """

    def __init__(self) -> None:
        self._bar = ProgressBar(1)

    def update(self, done: int, total: int, preview: Any = None) -> None:
        """Raises InterruptProcessingException if the artist has stopped the run."""
        throw_exception_if_processing_interrupted()
        self._bar.update_absolute(done, total, preview)


def say(text: str) -> None:
    """Tell the artist something about the node at work: under the node in the page, and in the log."""
    logger.info(text)
    context = get_executing_context()
    server = getattr(PromptServer, "instance", None)
    if context is not None and server is not None:
        server.send_progress_text(text, context.node_id)
