"""Widgets for the size of a film."""

from __future__ import annotations

from comfy_api.latest import io

from ..sfpp_core.wan.config import WAN21

MAX_SIDE = 8192
"""Pixels. No model comes near it; a digit too many must not fill the memory."""


def side_input(name: str, tooltip: str, *, default: int, least: int = WAN21.size_multiple) -> io.Input:
    """A side of the film in pixels. tooltip: what follows "Width of the film in pixels, a multiple of 16."."""
    return io.Int.Input(
        name,
        default=default,
        min=least,
        max=MAX_SIDE,
        step=WAN21.size_multiple,
        tooltip=f"{name.capitalize()} of the film in pixels, a multiple of {WAN21.size_multiple}. {tooltip}",
    )
