"""Drawings of the four places and the four objects: antialiased painting with signed distances.

Places are still pictures in scene light, [3, H, W] with values in about [0, 1]: only the object moves, and everything
else that changes is an error. Objects are layers over a developed picture. A silhouette is given in object coordinates,
u to the right and v downwards, both in [-1, 1] over the object's extent.

Axes: F frame, H row, W column. Coordinates are picture heights from the upper left corner, y downwards, at pixel
centres. Whatever depends on the frame uses only + - * / sqrt, abs, min, max and floor: these round alike wherever an
element lies in a vector register, so a frame has the same bits in whatever batch of frames it is rendered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import pi, tau

import torch
from torch import Tensor

from .attributes import Colour, ObjectKind, Place, SceneSpec

RGB = tuple[float, float, float]
EDGE_PIXELS = 1.25
"""Width of an antialiased edge: a little soft, so that slow motion shows within a pixel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Pixel centres of a picture, or of a rectangle of it."""

    x: Tensor
    """[1, W] in (0, aspect)."""
    y: Tensor
    """[H, 1] in (0, 1)."""
    rows: int
    """Pixels to a picture height."""
    aspect: float
    """Width of the picture in picture heights."""

    @staticmethod
    def of(height: int, width: int) -> Grid:
        x = ((torch.arange(width, dtype=torch.float64) + 0.5) / height).to(torch.float32)
        y = ((torch.arange(height, dtype=torch.float64) + 0.5) / height).to(torch.float32)
        return Grid(x=x[None, :], y=y[:, None], rows=height, aspect=width / height)


def coverage(distance: Tensor, rows: int, soft: float = EDGE_PIXELS) -> Tensor:
    """Share of each pixel inside a shape, [0, 1]: distance is negative inside, in picture heights; `soft` in pixels."""
    return (0.5 - distance * (rows / soft)).clamp(0, 1)


def smooth(edge0: float, edge1: float, value: Tensor) -> Tensor:
    """Cubic step from 0 at edge0 to 1 at edge1."""
    t = ((value - edge0) / (edge1 - edge0)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def colour(rgb: RGB) -> Tensor:
    """[3, 1, 1], to broadcast over a picture."""
    return torch.tensor(rgb, dtype=torch.float32)[:, None, None]


def blend(below: Tensor, above: Tensor | RGB, alpha: Tensor) -> Tensor:
    """`above` over `below` [3, H, W], with alpha [H, W]."""
    return below + alpha * ((above if isinstance(above, Tensor) else colour(above)) - below)


def develop(scene: Tensor, exposure: float, tint: float) -> Tensor:
    """Scene light [3, ...] to display values in [0, 1): white balance, exposure, and a curve that never clips.

    The curve is x / (1 + x^4)^(1/4): linear in the shadows, so that exposure is a gain there, and below 1 everywhere.
    """
    gains = torch.tensor([1 + 0.16 * tint, 1.0, 1 - 0.16 * tint]).mul(exposure)
    light = scene * gains.reshape(3, *[1] * (scene.ndim - 1))
    squared = light * light
    return light / (1 + squared * squared).sqrt().sqrt()


def paint_place(spec: SceneSpec, grid: Grid) -> Tensor:
    """The scene without its object."""
    return _PAINTERS[spec.attributes.place](spec, grid)


def _desert(spec: SceneSpec, grid: Grid) -> Tensor:
    picture = _sky(grid, (0.42, 0.66, 0.74), (0.98, 0.82, 0.58), horizon=0.5)
    picture = _sun_or_moon(picture, spec, grid, disc=(1.05, 0.95, 0.7), glow=(1.0, 0.82, 0.52))
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
    picture = _sun_or_moon(picture, spec, grid, disc=(1.1, 1.05, 0.85), glow=(1.0, 0.95, 0.80))
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
    picture = _sun_or_moon(picture, spec, grid, disc=(1.1, 1.0, 0.72), glow=(1.0, 0.96, 0.8))
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
    picture = _sun_or_moon(picture, spec, grid, disc=(1.05, 0.98, 0.92), glow=(0.98, 0.80, 0.80))
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


def _sun_or_moon(picture: Tensor, spec: SceneSpec, grid: Grid, disc: RGB, glow: RGB) -> Tensor:
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


PALETTE: dict[Colour, RGB] = {
    Colour.RED: (0.90, 0.13, 0.12),
    Colour.YELLOW: (1.15, 0.86, 0.06),
    Colour.GREEN: (0.06, 0.62, 0.22),
    Colour.BLUE: (0.08, 0.22, 0.88),
    Colour.PURPLE: (0.55, 0.12, 0.66),
    Colour.WHITE: (1.15, 1.15, 1.15),
}
RIM = 0.13
"""Width of the dark rim round every silhouette, in object coordinates; it keeps any colour apart from any ground."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One flat paint: where (signed distance in object coordinates, [F, H, W]) and what."""

    distance: Tensor
    paint: RGB
    soft: float = EDGE_PIXELS
    """Width of the edge, in pixels."""


def layers(kind: ObjectKind, colour: Colour, u: Tensor, v: Tensor) -> Iterator[Layer]:
    """The object's layers from back to front. u [F, 1, W] and v [F, H, 1]."""
    body = PALETTE[colour]
    silhouette, details = _SHAPES[kind]
    distance = silhouette(u, v)
    yield Layer(distance=distance, paint=_scaled(body, 0.22))
    yield Layer(distance=distance + RIM, paint=body)
    yield from details(body, distance, u, v)


def _ball(u: Tensor, v: Tensor) -> Tensor:
    return (u * u + v * v).sqrt() - 0.98


def _ball_details(body: RGB, distance: Tensor, u: Tensor, v: Tensor) -> Iterator[Layer]:
    lower = -(((u + 0.25) * (u + 0.25) + (v + 0.3) * (v + 0.3)).sqrt() - 0.85)
    yield Layer(distance=lower.maximum(distance + RIM), paint=_scaled(body, 0.62), soft=2.5)
    spot = ((u + 0.32) * (u + 0.32) + (v + 0.36) * (v + 0.36)).sqrt() - 0.2
    yield Layer(distance=spot, paint=_highlight(body), soft=2.0)


def _boat(u: Tensor, v: Tensor) -> Tensor:
    return _boat_hull(u, v).minimum(_boat_sail(u, v))


def _boat_hull(u: Tensor, v: Tensor) -> Tensor:
    return ((u.abs() + 0.55 * v - 1.2) * 0.876).maximum(v - 0.9).maximum(0.36 - v)


def _boat_sail(u: Tensor, v: Tensor) -> Tensor:
    return ((u.abs() * 1.35 - v - 1.0) * 0.595).maximum(v - 0.36)


def _boat_details(body: RGB, distance: Tensor, u: Tensor, v: Tensor) -> Iterator[Layer]:
    yield Layer(distance=_boat_hull(u, v) + RIM, paint=(0.42, 0.24, 0.13))
    yield Layer(distance=(v - 0.52).maximum(0.36 - v).maximum(distance + RIM), paint=(0.95, 0.88, 0.74))
    yield Layer(distance=(u.abs() - 0.07).maximum(_boat_sail(u, v) + RIM), paint=_scaled(body, 0.5))


def _kite(u: Tensor, v: Tensor) -> Tensor:
    return _kite_sail(u, v).minimum(_kite_tail(u, v))


def _kite_sail(u: Tensor, v: Tensor) -> Tensor:
    upper = (u.abs() - 1.6 * (v + 0.4) - 0.96) * 0.53
    lower = (u.abs() + 0.85 * (v + 0.4) - 0.96) * 0.76
    return upper.maximum(lower)


def _kite_tail(u: Tensor, v: Tensor) -> Tensor:
    bow = (u.abs() - 1.3 * (v - 0.84).abs() - 0.1).maximum((v - 0.84).abs() - 0.16)
    return bow.minimum((u.abs() - 0.1).maximum((v - 0.75).abs() - 0.2))


def _kite_details(body: RGB, distance: Tensor, u: Tensor, v: Tensor) -> Iterator[Layer]:
    inside = _kite_sail(u, v) + RIM
    yield Layer(distance=inside.maximum(v + 0.4), paint=_highlight(body))
    yield Layer(distance=inside.maximum(u.abs() - 0.06), paint=_scaled(body, 0.45))


def _lantern(u: Tensor, v: Tensor) -> Tensor:
    return _box(u, v, 0.82, 0.70, 0.1).minimum(_lantern_caps(u, v))


def _lantern_caps(u: Tensor, v: Tensor) -> Tensor:
    return (v.abs() - 0.95).maximum(0.7 - v.abs()).maximum(u.abs() - 0.5)


def _lantern_details(body: RGB, distance: Tensor, u: Tensor, v: Tensor) -> Iterator[Layer]:
    yield Layer(distance=_box(u, v, 0.32, 0.42, 0.1), paint=_highlight(body), soft=4.0)
    yield Layer(distance=_lantern_caps(u, v) + 0.05, paint=(0.20, 0.14, 0.12))


def _box(u: Tensor, v: Tensor, half_width: float, half_height: float, radius: float) -> Tensor:
    """Signed distance to a box with rounded corners."""
    du, dv = u.abs() - (half_width - radius), v.abs() - (half_height - radius)
    outside = (du.clamp(min=0) * du.clamp(min=0) + dv.clamp(min=0) * dv.clamp(min=0)).sqrt()
    return outside + du.maximum(dv).clamp(max=0) - radius


def _scaled(paint: RGB, gain: float) -> RGB:
    return paint[0] * gain, paint[1] * gain, paint[2] * gain


def _highlight(paint: RGB) -> RGB:
    """Half way to a warm white."""
    return 0.55 * paint[0] + 0.5, 0.55 * paint[1] + 0.48, 0.55 * paint[2] + 0.42


_Silhouette = Callable[[Tensor, Tensor], Tensor]
_Details = Callable[[RGB, Tensor, Tensor, Tensor], Iterator[Layer]]
_SHAPES: dict[ObjectKind, tuple[_Silhouette, _Details]] = {
    ObjectKind.BALL: (_ball, _ball_details),
    ObjectKind.BOAT: (_boat, _boat_details),
    ObjectKind.KITE: (_kite, _kite_details),
    ObjectKind.LANTERN: (_lantern, _lantern_details),
}
