"""From scene to pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor

from .attributes import SceneSpec, object_path
from .drawings import Grid, colour, coverage, develop, layers, paint_place


def render(
    specs: SceneSpec | Sequence[SceneSpec], start_frame: int, num_frames: int, height: int, width: int
) -> Tensor:
    """Frames `start_frame` to `start_frame + num_frames - 1` of each scene, at 16 frames a second.

    Returns B 3 F H W in [-1, 1], float32. A frame depends on its spec and its index alone, bit for bit: videos are
    endless and may be rendered from anywhere, in pieces.
    """
    if num_frames < 1 or height < 1 or width < 1:
        raise ValueError(f"num_frames {num_frames}, height {height}, width {width}: each must be at least 1")
    batch = [specs] if isinstance(specs, SceneSpec) else list(specs)
    frames = torch.arange(start_frame, start_frame + num_frames)
    grid = Grid.of(height, width)
    return torch.stack([_video(spec, frames, grid) for spec in batch])


def _video(spec: SceneSpec, frames: Tensor, grid: Grid) -> Tensor:
    """One scene, [3, F, H, W] in [-1, 1]."""
    ground = develop(paint_place(spec, grid), spec.exposure, spec.tint).clamp(0, 1)
    video = ground[:, None].repeat(1, len(frames), 1, 1)
    x, y = (rearrange(centre.to(torch.float32), "f -> f 1 1") for centre in object_path(spec, frames, grid.aspect))
    rows, columns = _reach(spec, grid, x, y)
    part = replace(grid, x=grid.x[:, columns], y=grid.y[rows])
    _paint_object(video[:, :, rows, columns], spec, part, x, y)
    return video.mul_(2).sub_(1)


def _reach(spec: SceneSpec, grid: Grid, x: Tensor, y: Tensor) -> tuple[slice, slice]:
    """Rows and columns that object and shadow touch in any of the frames; nothing else needs painting."""
    across = 0.55 * spec.size + 2 / grid.rows
    lowest = max(spec.height + 0.02 + 0.16 * spec.size, float(y.max()) + across)
    return (
        _pixels(float(y.min()) - across, lowest, grid.rows, grid.rows),
        _pixels(float(x.min()) - across, float(x.max()) + across, grid.rows, grid.x.shape[1]),
    )


def _pixels(start: float, stop: float, rows: int, count: int) -> slice:
    """The pixels between two places, in picture heights."""
    first, last = int(start * rows), int(stop * rows) + 1
    return slice(min(max(first, 0), count), min(max(last, 0), count))


def _paint_object(video: Tensor, spec: SceneSpec, grid: Grid, x: Tensor, y: Tensor) -> None:
    """Object and shadow into a video [3, F, H, W], in place. x, y: its centres [F, 1, 1]."""
    radius = spec.size / 2
    _shadow(video, spec, grid, x, y)
    u, v = (grid.x - x) / radius, (grid.y - y) / radius
    for layer in layers(spec.attributes.object, spec.attributes.colour, u, v):
        paint = develop(colour(layer.paint), spec.exposure, spec.tint)
        _over(video, paint, coverage(layer.distance * radius, grid.rows, layer.soft))


def _shadow(video: Tensor, spec: SceneSpec, grid: Grid, x: Tensor, y: Tensor) -> None:
    """A soft ellipse on the ground below the object; it shrinks and fades as the object rises."""
    near = 1 - (spec.height - spec.size / 2 - y) * 1.4
    du = (grid.x - x) / (spec.size * 0.55)
    dv = (grid.y - (spec.height + 0.02)) / (spec.size * 0.16)
    _over(video, torch.zeros(3, 1, 1), (1 - (du * du + dv * dv)).clamp(0, 1) * (0.5 * near))


def _over(video: Tensor, paint: Tensor, alpha: Tensor) -> None:
    """Paint [3, 1, 1] over the video [3, F, H, W] in place, with alpha [F, H, W]."""
    video.add_(alpha * (paint[:, None] - video))
