"""Where the object is: closed-form in the frame index, periodic, without a start or an end."""

from __future__ import annotations

import torch
from torch import Tensor

from sfpp_core.wan.config import FRAMES_PER_SECOND

from .attributes import Motion, Speed
from .spec import SceneSpec

TRAVEL_WIDTHS_PER_SECOND = {Speed.SLOW: 0.125, Speed.FAST: 0.40625}
"""Across the picture: 8 and 26 pixels a second at a width of 64."""
BOUNCE_SECONDS = {Speed.SLOW: 2.5, Speed.FAST: 1.0}
"""From ground to ground."""
BOUNCE_HEIGHT = 0.36
"""Rise of a bounce, as a fraction of the picture's height."""


def object_path(spec: SceneSpec, frames: Tensor, aspect: float) -> tuple[Tensor, Tensor]:
    """Centre of the object in each frame.

    frames: frame indices [F], any integers. aspect: width / height of the picture.
    Returns x and y [F] in float64, in picture heights from the upper left corner. A travelling object leaves the
    picture entirely and then comes back at once on the other side; its way is one picture width and one object long.
    """
    seconds = frames.to(torch.float64) / FRAMES_PER_SECOND
    resting_y = torch.full_like(seconds, spec.height - spec.size / 2)
    speed, motion = spec.attributes.speed, spec.attributes.motion
    if motion is Motion.BOUNCE:
        turns = _fraction(spec.start_phase + seconds * (spec.pace / BOUNCE_SECONDS[speed]))
        return torch.full_like(seconds, spec.column * aspect), resting_y - BOUNCE_HEIGHT * 4 * turns * (1 - turns)
    way = aspect + spec.size
    travelled = seconds * (spec.pace * TRAVEL_WIDTHS_PER_SECOND[speed] * aspect / way)
    turns = _fraction(spec.start_phase + (travelled if motion is Motion.RIGHT else -travelled))
    return turns * way - spec.size / 2, resting_y


def _fraction(turns: Tensor) -> Tensor:
    return turns - turns.floor()
