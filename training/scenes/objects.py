"""The four objects, as layers over a developed picture.

A silhouette is given in object coordinates: u to the right and v downwards, both in [-1, 1] over the object's extent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from .attributes import Colour, ObjectKind
from .canvas import EDGE_PIXELS, RGB

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
    yield Layer(distance=((u + 0.32) * (u + 0.32) + (v + 0.36) * (v + 0.36)).sqrt() - 0.2, paint=_light(body), soft=2.0)


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
    yield Layer(distance=inside.maximum(v + 0.4), paint=_light(body))
    yield Layer(distance=inside.maximum(u.abs() - 0.06), paint=_scaled(body, 0.45))


def _lantern(u: Tensor, v: Tensor) -> Tensor:
    return _box(u, v, 0.82, 0.70, 0.1).minimum(_lantern_caps(u, v))


def _lantern_caps(u: Tensor, v: Tensor) -> Tensor:
    return (v.abs() - 0.95).maximum(0.7 - v.abs()).maximum(u.abs() - 0.5)


def _lantern_details(body: RGB, distance: Tensor, u: Tensor, v: Tensor) -> Iterator[Layer]:
    yield Layer(distance=_box(u, v, 0.32, 0.42, 0.1), paint=_light(body), soft=4.0)
    yield Layer(distance=_lantern_caps(u, v) + 0.05, paint=(0.20, 0.14, 0.12))


def _box(u: Tensor, v: Tensor, half_width: float, half_height: float, radius: float) -> Tensor:
    """Signed distance to a box with rounded corners."""
    du, dv = u.abs() - (half_width - radius), v.abs() - (half_height - radius)
    outside = (du.clamp(min=0) * du.clamp(min=0) + dv.clamp(min=0) * dv.clamp(min=0)).sqrt()
    return outside + du.maximum(dv).clamp(max=0) - radius


def _scaled(paint: RGB, gain: float) -> RGB:
    return paint[0] * gain, paint[1] * gain, paint[2] * gain


def _light(paint: RGB) -> RGB:
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
