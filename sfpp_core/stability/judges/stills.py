"""A few pictures that stand for a video, for judges that take pictures only."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Final

import numpy as np
from PIL import Image

from ..footage import Footage

JPEG_QUALITY: Final = 90


def stills(video: Footage, count: int, max_px: int, abort: Callable[[], None]) -> list[tuple[float, bytes]]:
    """Up to `count` pictures, evenly over the video with its first and its last frame: time in seconds and JPEG.

    A video with fewer frames gives all. Times count from the start of the whole video. The longer side of a picture is
    at most `max_px` pixels. One picture is held at full size, however long the video is.
    `abort` is called at every frame that is read, and may raise to stop.

    Raises:
        ValueError: `count` is below 2.
        VideoFileError: the file is damaged or cut short.
    """
    if count < 2:
        raise ValueError(f"count is {count}; a video needs at least its first and its last frame.")
    step = video.duration / (count - 1)
    picked: list[tuple[float, bytes]] = []
    last: tuple[float, np.ndarray] | None = None
    due = video.start
    for time, frame in video.frames():
        abort()
        if time >= due and len(picked) < count - 1:
            picked.append((time, _jpeg(frame, max_px)))
            last = None
            # Counted from the frame and not from `due`: after a gap in time the frames do not come in a row.
            due = video.start + (math.floor((time - video.start) / step) + 1) * step
        else:
            last = (time, frame)
    if last is not None:
        picked.append((last[0], _jpeg(last[1], max_px)))
    return picked


def _jpeg(frame: np.ndarray, max_px: int) -> bytes:
    picture = Image.fromarray(frame)
    picture.thumbnail((max_px, max_px))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()
