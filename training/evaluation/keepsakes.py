"""What is kept of some films to look at: an MP4, and a strip of the pictures at the lengths that are judged.

Axes: F frame, H height, W width, C colour.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from sfpp_core.files import replacing
from sfpp_core.stability.plot import BODY_POINTS, DPI, INK, text_width, type_of
from sfpp_core.video.writer import VideoWriter

from .lengths import frames_of
from .records import FilmKey, length_name

FOLDER: Final = "films"
_PICTURE_PX, _HEAD_PX, _MARGIN_PX = 128, 26, 8


def strip_path(folder: Path, key: FilmKey) -> Path:
    """Where the pictures of a film are kept."""
    return folder / FOLDER / f"p{key.prompt:03d}_{key.take}_{key.arm}.png"


class Keepsake:
    """A context manager that takes a film's pictures as they are made and leaves an MP4 and a strip behind."""

    def __init__(self, folder: Path, key: FilmKey, lengths: list[float], size: tuple[int, int]) -> None:
        self._path = strip_path(folder, key)
        self._marks = [0, *(frames_of(length) - 1 for length in lengths)]
        self._size = size
        self._kept: list[np.ndarray] = []
        self._seen = 0
        self._resources = ExitStack()
        self._writer: VideoWriter | None = None

    def __enter__(self) -> Keepsake:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        height, width = self._size
        self._writer = self._resources.enter_context(VideoWriter(self._path.with_suffix(".mp4"), width, height))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.__exit__(kind, error, trace)
        if kind is None:
            with replacing(self._path) as temporary:
                Image.fromarray(np.concatenate(self._kept, axis=1)).save(temporary)

    def see(self, pictures: np.ndarray) -> None:
        """The next frames, uint8 F H W C."""
        # Colours are converted by matrix products, which autocast would round to half precision.
        with torch.autocast("cpu", enabled=False):
            self._writer.write(torch.from_numpy(pictures))
        while len(self._kept) < len(self._marks) and self._marks[len(self._kept)] < self._seen + len(pictures):
            self._kept.append(pictures[self._marks[len(self._kept)] - self._seen].copy())
        self._seen += len(pictures)


def write_sheet(strips: dict[str, Path], lengths: list[float], title: str, path: Path) -> None:
    """One picture of the same film in several arms: a row an arm, a column for the start and each length.

    strips: the strip of each arm; a shorter one leaves the columns that it does not reach empty.
    """
    label = 2 * _MARGIN_PX + max(text_width(arm, BODY_POINTS) for arm in strips)
    width, height = label + _PICTURE_PX * (len(lengths) + 1), 2 * _HEAD_PX + _PICTURE_PX * len(strips)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    figure.text(_MARGIN_PX / width, 1 - 0.65 * _HEAD_PX / height, title, **type_of(BODY_POINTS, bold=True))
    for column, text in enumerate(["0 s", *(f"{length_name(length)} s" for length in lengths)]):
        left = label + (column + 0.5) * _PICTURE_PX
        figure.text(left / width, 1 - 1.7 * _HEAD_PX / height, text, ha="center", **type_of(BODY_POINTS))
    for row, (arm, strip) in enumerate(strips.items()):
        with Image.open(strip) as opened:
            pictures = np.asarray(opened.convert("RGB"))
        share = pictures.shape[1] / pictures.shape[0] * _PICTURE_PX / width
        bottom = 1 - (2 * _HEAD_PX + (row + 1) * _PICTURE_PX) / height
        axes = figure.add_axes((label / width, bottom, share, _PICTURE_PX / height))
        axes.imshow(pictures, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        middle = bottom + 0.5 * _PICTURE_PX / height
        figure.text(_MARGIN_PX / width, middle, arm, va="center", **type_of(BODY_POINTS, color=INK))
    canvas = FigureCanvasAgg(figure)
    with replacing(path) as temporary:
        canvas.print_png(temporary)
