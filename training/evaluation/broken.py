"""Films that are no films, told before they are judged: as bytes, NaN is black, and a black film is very stable."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .records import FilmKey


class BrokenFilm(RuntimeError):
    """Pictures that are no numbers; the message says whose, and what to do."""


def require_numbers(pictures: Tensor, keys: Sequence[FilmKey]) -> None:
    """Raise BrokenFilm if a film's pictures, B 3 F H W with a key each, hold a NaN or an infinity."""
    for key, film in zip(keys, pictures, strict=True):
        if not film.isfinite().all():
            raise BrokenFilm(
                f"{key.arm}, prompt {key.prompt}, take {key.take}: its pictures hold values that are no numbers (NaN). "
                "If run.compile is on, write run.compile=false, as compiled autoencoders fail on some processors; "
                "otherwise what made the film overflowed, so try precision=float32."
            )
