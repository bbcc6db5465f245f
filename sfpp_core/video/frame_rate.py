"""Frames made at one rate, shown at another."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

NTSC = Fraction(1000, 1001)
_SAME = 0.005


def exact_rate(fps: float) -> Fraction:
    """The rate that a decimal number means: 23.976 and 29.97 are 24000/1001 and 30000/1001."""
    whole = round(fps)
    if fps != whole and abs(fps - whole * NTSC) < _SAME:
        return whole * NTSC
    return Fraction(fps).limit_denominator(1000)


def times_shown(index: int, *, made: Fraction, shown: Fraction) -> int:
    """How many frames of a film with `shown` frames a second show the frame `index` of one that has `made`.

    A frame is on the screen from its time until the next one's, as in the film it was made for, and nothing is invented
    between two: so the film keeps its length, but for less than a frame, at which the last ends later. Going from 16 to
    24, every second frame comes twice; from 16 to 8, every second is left out.
    """
    ratio = shown / made
    return ceil((index + 1) * ratio) - ceil(index * ratio)
