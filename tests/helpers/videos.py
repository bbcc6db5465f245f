"""Small videos that the tests of video files share."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sfpp_core.video.reader import VideoReader
from sfpp_core.video.writer import VideoWriter

HEIGHT, WIDTH = 48, 64


def moving_square(frames: int) -> Tensor:
    """T H W C in [0, 1]: on a grey slope, a red square that moves two pixels a frame."""
    video = torch.linspace(0.2, 0.8, WIDTH).expand(frames, HEIGHT, WIDTH)[..., None].repeat(1, 1, 1, 3)
    for index, frame in enumerate(video):
        left = 2 * index % (WIDTH - 16)
        frame[16:32, left : left + 16] = torch.tensor((1.0, 0.0, 0.0))
    return video


def write(path: Path, frames: Tensor, **options: object) -> Path:
    with VideoWriter(path, frames.shape[2], frames.shape[1], **options) as writer:
        writer.write(frames)
    return path


def read(path: Path, max_frames: int = 8) -> Tensor:
    with VideoReader(path) as reader:
        return torch.cat(list(reader.chunks(max_frames)))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
