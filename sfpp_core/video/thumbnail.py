"""A still that stands for a film where only pictures are shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..files import replacing

MAX_SIDE_PX: Final = 512


def save_thumbnail(path: Path, frame: Tensor, *, metadata: Mapping[str, str]) -> None:
    """Write a frame H W 3, floating point in [0, 1], as a PNG whose longer side is at most 512 pixels.

    metadata: its text chunks, for instance those from which ComfyUI's page restores a workflow.

    Raises:
        OSError: the file cannot be written.
    """
    levels = frame.detach().float().clamp(0, 1).mul(255).round().byte().cpu()
    picture = Image.fromarray(levels.numpy())
    picture.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.LANCZOS)
    texts = PngInfo()
    for name, value in metadata.items():
        texts.add_text(name, value)
    with replacing(path) as unfinished:
        picture.save(unfinished, pnginfo=texts)
