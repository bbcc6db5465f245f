"""ComfyUI's VIDEO and IMAGE as footage that the core reads."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
from comfy_api.latest import InputImpl
from torch import Tensor

from ...sfpp_core.video.span import Footage


@contextmanager
def footage_of(video: Any, fps: float) -> Iterator[Footage]:
    """A VIDEO, or an IMAGE batch shown at `fps`, as footage that can be read until the block ends.

    A video in a file is read from there piece by piece, and nothing of it is kept in memory. One that a node holds as
    pictures is read as these: ComfyUI's own way to stream it would compress them first.

    Raises:
        PermissionError: the file lies outside ComfyUI's folders.
        VideoFileError: the file is no video, has no pictures in it, is damaged or cut short.
        ValueError: the pictures are of another shape, or there are none.
    """
    if isinstance(video, Tensor):
        yield Footage.from_images(video, fps)
        return
    if isinstance(video, InputImpl.VideoFromComponents):
        parts = video.get_components()
        yield Footage.from_images(parts.images, float(parts.frame_rate))
        return
    with file_of(video) as path:
        yield _as_trimmed(Footage.open(path), video)


@contextmanager
def file_of(video: Any) -> Iterator[Path]:
    """The file behind a VIDEO that has one. One in memory only, as nodes of online services give it, becomes a file
    meanwhile."""
    source = video.get_stream_source()
    if not isinstance(source, BytesIO):
        yield _permitted(source)
        return
    ending = "mp4" if "mp4" in (kinds := video.get_container_format().split(",")) else kinds[0]
    temporary = Path(folder_paths.get_temp_directory())
    temporary.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=temporary) as folder:
        path = Path(folder, f"video.{ending}")
        path.write_bytes(source.getbuffer())
        yield path


def _permitted(path: str) -> Path:
    """The path of a file in ComfyUI's input, output or temp folder.

    Load Video opens any path that a workflow names, and workflows come from strangers: without this, one could have any
    film of this machine sent to a judge that is far away.

    Raises:
        PermissionError: it lies elsewhere.
    """
    roots = (folder_paths.get_input_directory(), folder_paths.get_output_directory(), folder_paths.get_temp_directory())
    # Whoever puts a link into these folders may; and where such a folder is one, its files have two names.
    absolute = Path(os.path.abspath(path))
    is_below = any(
        Path(named(path)).is_relative_to(named(root)) for root in roots for named in (os.path.abspath, os.path.realpath)
    )
    if not is_below:
        raise PermissionError(
            f"video is {absolute.name}, which is not in ComfyUI's input, output or temp folder. Copy it into the input "
            "folder and choose it there."
        )
    return absolute


def trim_of(video: Any) -> tuple[float, float]:
    """Start and length, in seconds, of the part of its file that a VIDEO stands for; 0 long is up to the end.

    From 0.26 on, Trim Video cuts nothing: it only notes the span.
    """
    window = getattr(video, "get_active_trim_window", None)
    return window() if window is not None else (0.0, 0.0)


def _as_trimmed(footage: Footage, video: Any) -> Footage:
    start, seconds = trim_of(video)
    if not (start or seconds):
        return footage
    part = footage.segment(start, start + seconds if seconds else footage.end)
    source = TrimmedSource(part)
    return Footage(source=source, start=0.0, end=source.duration)


class TrimmedSource:
    """A span of footage in the role of a whole video: what was cut off is nothing that it should be compared with."""

    def __init__(self, span: Footage) -> None:
        self._span = span
        self.name = span.name
        self.path: Path | None = None
        self.size = span.size
        self.duration = span.duration
        self.num_frames = max(1, round(span.source.num_frames * span.duration / span.source.duration))

    def pictures(self, start: float, end: float, min_gap: float) -> Iterator[tuple[float, np.ndarray]]:
        """See the core's Source."""
        origin = self._span.start
        for time, picture in self._span.source.pictures(origin + start, origin + end, min_gap):
            yield time - origin, picture

    def digest(self) -> str:
        """See the core's Source."""
        return self._span.fingerprint()
