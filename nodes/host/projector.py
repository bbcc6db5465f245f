"""The preview of a film at work: its latest seconds, played over and over in the place of ComfyUI's still pictures."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
from comfy_api import feature_flags
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from protocol import BinaryEventTypes
from server import PromptServer

SECONDS = 5.0
"""How much of the film is played: what a window of 21 latent frames holds."""
SMALL_SIDE = 256
"""Pixels. ComfyUI enlarges previews to twice that and more, which says nothing new of a film that is no larger."""

Preview = tuple[str, Any, int | None]
"""What ComfyUI sends: format, PIL image, and the side that it is scaled to."""
Picture = Callable[[], Preview]
"""Makes its preview when it is shown. Few of a fast film's are."""


class Projector:
    """A context manager that plays what it is given, in a thread of its own, at the film's own speed.

    Every client that shows ComfyUI's previews shows this one: it is the same message, sent more often.
    """

    def __init__(self, per_second: float, film_side: int) -> None:
        """per_second: pictures a second of film. film_side: the longer side of the film in pixels."""
        self._per_second = per_second
        self._most_side = max(film_side, SMALL_SIDE)
        self._film: deque[Picture] = deque(maxlen=round(SECONDS * per_second))
        self._at_work: Sequence[Picture] = ()
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._has_something = threading.Event()
        self._send = _sender()
        self._thread = threading.Thread(target=self._play, name="sfpp-preview", daemon=True)
        self._position = (0.0, 1)

    def __enter__(self) -> Projector:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._has_something.set()
        self._thread.join()

    def at_work(self, pictures: Sequence[Picture]) -> None:
        """What follows the film as it looks now; takes the place of what was said before."""
        with self._lock:
            self._at_work = tuple(pictures)
        if pictures:
            self._has_something.set()

    def finished(self) -> None:
        """What was at work is film now."""
        with self._lock:
            self._film.extend(self._at_work)
            self._at_work = ()

    def stands_at(self, done: float, total: int) -> None:
        """Where the node's bar is, which the message repeats."""
        self._position = (done, total)

    @torch.inference_mode()
    def _play(self) -> None:
        self._has_something.wait()
        while not self._is_over.is_set():
            with self._lock:
                pictures = [*self._film, *self._at_work]
            for picture in pictures:
                self._send(self._of_its_size(picture()), *self._position)
                if self._is_over.wait(1 / self._per_second):
                    return
            if not pictures:  # there were some, which nobody gave anew
                self._is_over.wait(1 / self._per_second)

    def _of_its_size(self, preview: Preview) -> Preview:
        form, image, side = preview
        return form, image, side and min(side, self._most_side)


def _sender() -> Callable[[Preview, float, int], None]:
    """Sends previews for the node at work. ComfyUI's own progress bar also asks for interrupts, which belong to the
    node's thread, and knows the node at work only there."""
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
