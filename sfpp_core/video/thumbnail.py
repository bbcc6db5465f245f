"""A still that stands for a film where only pictures are shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..files import replacing
from .reader import VideoReader

MAX_SIDE_PX: Final = 512


def save_thumbnail(film: Path, *, metadata: Mapping[str, str]) -> Path:
    """Write the first picture of a film beside it, as a PNG of the same name whose longer side is at most 512 pixels.

    Beside it and not into it, because FFmpeg drops a cover from an MP4 that carries a workflow.

    metadata: text chunks for the PNG, for instance those from which ComfyUI's page restores a workflow.

    Raises:
        VideoFileError: the film cannot be read.
        OSError: the file cannot be written.
    """
    with VideoReader(film) as reader:
        _, first = next(reader.pictures())
    picture = Image.fromarray(first)
    picture.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.LANCZOS)
    texts = PngInfo()
    for name, value in metadata.items():
        texts.add_text(name, value)
    path = film.with_suffix(".png")
    with replacing(path) as unfinished:
        picture.save(unfinished, pnginfo=texts)
    return path
