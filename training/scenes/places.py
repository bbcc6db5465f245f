"""The four places: still pictures in scene light, [3, H, W] with values in about [0, 1].

The ground does not move: in a film of this family only the object does, and everything else that changes is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi, tau

import torch
from torch import Tensor

from .attributes import Place
from .canvas import RGB, Grid, blend, colour, coverage, smooth
from .spec import SceneSpec


def paint_place(spec: SceneSpec, grid: Grid) -> Tensor:
    """The scene without its object."""
    return _PAINTERS[spec.attributes.place](spec, grid)


def _desert(spec: SceneSpec, grid: Grid) -> Tensor:
    picture = _sky(grid, (0.42, 0.66, 0.74), (0.98, 0.82, 0.58), horizon=0.5)
    picture = _light(picture, spec, grid, disc=(1.05, 0.95, 0.7), glow=(1.0, 0.82, 0.52))
    turns = grid.x / grid.aspect
    layers: tuple[tuple[float, float, float, RGB, RGB], ...] = (
        (0.46, 0.045, 0.8, (0.80, 0.53, 0.37), (0.74, 0.46, 0.33)),
        (0.55, 0.065, 0.6, (0.88, 0.62, 0.36), (0.74, 0.45, 0.26)),
        (0.70, 0.050, 0.9, (0.96, 0.74, 0.44), (0.82, 0.55, 0.30)),
    )
    for number, (crest, swing, waves, sunlit, shaded) in enumerate(layers):
        angle = tau * (turns * waves + spec.relief_phase * (number + 1) + 0.31 * number)
        ridge = crest + swing * (angle.sin() + 0.3 * (2 * angle).sin())
        depth = ((grid.y - ridge) / 0.3).clamp(0, 1)
        picture = blend(picture, _mix(sunlit, shaded, depth), coverage(ridge - grid.y, grid.rows))
    ripples = (tau * (5.5 * spec.texture_density * (grid.y + 0.06 * (tau * turns).sin()) + spec.texture_phase)).sin()
    return picture * (1 + 0.10 * ripples * smooth(0.68, 0.85, grid.y))


def _sea(spec: SceneSpec, grid: Grid) -> Tensor:
    horizon = 0.44 + 0.08 * spec.relief_phase
    picture = _sky(grid, (0.20, 0.45, 0.80), (0.80, 0.90, 0.95), horizon=horizon)
    picture = _light(picture, spec, grid, disc=(1.1, 1.05, 0.85), glow=(1.0, 0.95, 0.80))
    depth = ((grid.y - horizon) / (1 - horizon)).clamp(0, 1)
    water = _mix((0.22, 0.62, 0.72), (0.04, 0.22, 0.46), depth)
    across = grid.x * (3.2 * spec.texture_density) / (0.6 + depth)
    swell = (tau * (3.2 * (1 - depth).square() + 1.5 * depth + 0.12 * (tau * across).sin() + spec.texture_phase)).sin()
    water = water * (1 + 0.16 * swell)
    sun_x = spec.light_x * grid.aspect
    path = 1 - ((grid.x - sun_x).abs() / (0.06 + 0.12 * depth)).clamp(0, 1)
    water = blend(water, (1.0, 0.97, 0.82), path * smooth(0.05, 1.0, 0.5 * swell + 0.5) * (0.7 - 0.4 * depth))
    return blend(picture, water, coverage(horizon - grid.y, grid.rows))


def _meadow(spec: SceneSpec, grid: Grid) -> Tensor:
    picture = _sky(grid, (0.28, 0.58, 0.92), (0.82, 0.92, 0.96), horizon=0.55)
    picture = _light(picture, spec, grid, disc=(1.1, 1.0, 0.72), glow=(1.0, 0.96, 0.8))
    for offset, level, length in ((0.35, 0.17, 0.17), (0.8, 0.29, 0.13)):
        centre = grid.aspect * (spec.relief_phase + offset - int(spec.relief_phase + offset))
        picture = blend(picture, (0.98, 0.98, 1.0), 0.85 * _cloud(grid, centre, level, length))
    turns = grid.x / grid.aspect
    hills: tuple[tuple[float, float, float, RGB, RGB], ...] = (
        (0.48, 0.06, 0.9, (0.30, 0.56, 0.44), (0.36, 0.62, 0.38)),
        (0.58, 0.05, 0.7, (0.46, 0.72, 0.30), (0.30, 0.56, 0.20)),
    )
    for number, (crest, swing, waves, top, bottom) in enumerate(hills):
        ridge = crest + swing * (tau * (turns * waves + spec.relief_phase * (2 - number) + 0.4 * number)).sin()
        depth = ((grid.y - ridge) / 0.45).clamp(0, 1)
        picture = blend(picture, _mix(top, bottom, depth), coverage(ridge - grid.y, grid.rows))
    return _flowers(picture, spec, grid)


def _flowers(picture: Tensor, spec: SceneSpec, grid: Grid) -> Tensor:
    """Two rows of round flowers, the nearer ones larger."""
    for row, level in enumerate((0.72, 0.88)):
        radius = 0.024 + 0.012 * row
        step = (0.21 + 0.06 * row) / spec.texture_density
        turns = grid.x / step + spec.texture_phase + 0.5 * row
        nearest = turns.round()
        dx = (turns - nearest) * step
        dy = grid.y - level - 0.02 * (2.4 * nearest + tau * spec.texture_phase).sin()
        alpha = coverage((dx * dx + dy * dy).sqrt() - radius, grid.rows)
        picture = blend(picture, ((1.0, 0.94, 0.98), (1.0, 0.76, 0.84))[row], 0.9 * alpha)
    return picture


def _mountains(spec: SceneSpec, grid: Grid) -> Tensor:
    picture = _sky(grid, (0.30, 0.32, 0.62), (0.96, 0.72, 0.70), horizon=0.6)
    picture = _light(picture, spec, grid, disc=(1.05, 0.98, 0.92), glow=(0.98, 0.80, 0.80))
    turns = grid.x / grid.aspect
    ranges: tuple[tuple[float, float, float, RGB, RGB], ...] = (
        (0.20, 0.30, 1.7, (0.62, 0.54, 0.76), (0.74, 0.62, 0.76)),
        (0.32, 0.30, 1.3, (0.38, 0.36, 0.58), (0.56, 0.50, 0.68)),
    )
    for number, (summit, fall, peaks, rock, haze) in enumerate(ranges):
        zigzag = 2 * (turns * peaks + spec.relief_phase + 0.37 * number).frac().sub(0.5).abs()
        ridge = summit + fall * (zigzag + 0.1 * (3 * zigzag * pi).sin())
        depth = ((grid.y - ridge) / 0.45).clamp(0, 1)
        stone = _mix(rock, haze, depth)
        snow_line = summit + 0.11 + 0.03 * (tau * (5 * turns + spec.relief_phase)).sin()
        stone = blend(stone, (0.97, 0.96, 1.0), coverage(grid.y - snow_line, grid.rows, 2.5))
        picture = blend(picture, stone, coverage(ridge - grid.y, grid.rows))
    field = 0.63 + 0.025 * (tau * (turns * 0.8 + spec.texture_phase)).sin()
    picture = _firs(picture, spec, grid, field)
    drifts = (tau * (turns * 1.2 + 3.0 * grid.y + spec.texture_phase)).sin()
    snow = _mix((0.90, 0.90, 0.98), (0.66, 0.70, 0.88), ((grid.y - 0.6) / 0.4).clamp(0, 1)) * (1 + 0.05 * drifts)
    return blend(picture, snow, coverage(field - grid.y, grid.rows))


def _firs(picture: Tensor, spec: SceneSpec, grid: Grid, ground: Tensor) -> Tensor:
    """A row of dark triangles that stand on `ground` [1, W], of two heights."""
    step = 0.125 / spec.texture_density
    turns = grid.x / step + spec.texture_phase
    nearest = turns.floor() + 0.5
    tall = 0.12 + 0.035 * (2.4 * nearest + tau * spec.texture_phase).sin()
    slope = 0.34
    side = (turns - nearest).abs() * step - (grid.y - (ground - tall)) * slope
    return blend(picture, (0.13, 0.24, 0.27), coverage(side.maximum(grid.y - ground - 0.03), grid.rows))


def _sky(grid: Grid, top: RGB, bottom: RGB, horizon: float) -> Tensor:
    return _mix(top, bottom, (grid.y / horizon).clamp(0, 1)).expand(-1, -1, grid.x.shape[1])


def _light(picture: Tensor, spec: SceneSpec, grid: Grid, disc: RGB, glow: RGB) -> Tensor:
    """Sun or moon, with a halo."""
    dx, dy = grid.x - spec.light_x * grid.aspect, grid.y - spec.light_y
    away = (dx * dx + dy * dy).sqrt()
    picture = blend(picture, glow, 0.75 * (1 - (away / 0.4).clamp(0, 1)).square())
    return blend(picture, disc, coverage(away - 0.075, grid.rows, 2.0))


def _cloud(grid: Grid, centre: float, level: float, length: float) -> Tensor:
    """Three puffs on a flat base, wrapping round the picture so that a cloud is never cut off."""
    dx = (grid.x - centre + 1.5 * grid.aspect).remainder(grid.aspect) - 0.5 * grid.aspect
    alpha = torch.zeros(1)
    for shift, lift, radius in ((-0.6, 0.0, 0.40), (0.05, 0.2, 0.55), (0.65, 0.0, 0.35)):
        px, py = dx - shift * length, grid.y - level + lift * length
        alpha = alpha.maximum(coverage((px * px + py * py).sqrt() - radius * length, grid.rows, 2.5))
    return alpha * coverage(grid.y - level - 0.25 * length, grid.rows, 2.0)


def _mix(first: RGB, second: RGB, share: Tensor) -> Tensor:
    start, end = colour(first), colour(second)
    return start + (end - start) * share


_PAINTERS: dict[Place, Callable[[SceneSpec, Grid], Tensor]] = {
    Place.DESERT: _desert,
    Place.SEA: _sea,
    Place.MEADOW: _meadow,
    Place.MOUNTAINS: _mountains,
}
