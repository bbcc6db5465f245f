"""From the making of some films to what was found of them, in one pass that keeps no pictures.

Axes: B film, F frame, H height, W width, C colour.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from einops import rearrange
from torch import Tensor

from sfpp_core.stability.measure import FrameSeries
from sfpp_core.stability.offline.judge import Damage
from sfpp_core.video.span import Footage

from ..board import to_bytes
from ..not_numbers import require_numbers
from .feeds import Measuring
from .figures import FilmFigures, curve_edges, drift_curves
from .keepsakes import Keepsake
from .lengths import Ends, frames_of, latent_frames_of
from .makers import Bench, FilmMaker
from .records import FilmKey, FilmRecord, length_name
from .referee import ContentFigures, Referee

Content = dict[float, list[tuple[ContentFigures, list[float]]]]
"""By length, what the referee says of each film."""
Measured = tuple[Footage, FrameSeries]
"""A film that is over, and what was measured of every frame."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Session:
    """What judging takes, the same for all films of an arm."""

    maker: FilmMaker
    bench: Bench
    referee: Referee | None
    lengths: list[float]
    """Seconds, rising."""
    folder: Path
    prompts_kept: int
    """Of the first take of so many prompts, MP4 and strip are kept."""
    unheeded: list[Damage]
    """Kinds of damage that the judge of Visual Stability lets pass."""


def judge_films(session: Session, films: dict[FilmKey, str]) -> list[FilmRecord]:
    """Make films together, as many as are given with their identities, and judge each at every length.

    Raises:
        NotNumbers: one of them holds a NaN or an infinity.
    """
    started = time.monotonic()
    keys = list(films)
    measured, content = _watch(session, keys)
    seconds = (time.monotonic() - started) / len(keys)
    return [
        _record(session, key, films[key], measured[index], content, index, seconds) for index, key in enumerate(keys)
    ]


def _watch(session: Session, keys: list[FilmKey]) -> tuple[list[Measured], Content]:
    """Measurements of every frame of the films, and what the referee says of their ends."""
    longest = session.lengths[-1]
    num_frames, size = frames_of(longest), (session.bench.height, session.bench.width)
    ends, content = Ends(session.lengths), {}
    with ExitStack() as resources:
        measuring = resources.enter_context(
            Measuring([f"{key.arm} {key.prompt}/{key.take}" for key in keys], num_frames, size)
        )
        keepsakes = {
            index: resources.enter_context(Keepsake(session.folder, key, session.lengths, size))
            for index, key in enumerate(keys)
            if key.take == 0 and key.prompt < session.prompts_kept
        }
        for piece in _cut(session.maker.film(keys, latent_frames_of(longest)), num_frames):
            for key, film in zip(keys, piece, strict=True):
                require_numbers(f"{key.arm}, prompt {key.prompt}, take {key.take}: its pictures", film)
            pictures = _pictures(piece)
            measuring.push(pictures)
            for index, keepsake in keepsakes.items():
                keepsake.see(pictures[index])
            for length, window in ends.see(piece):
                if session.referee:
                    content[length] = session.referee.judge(window, [key.prompt for key in keys])
        return list(zip(measuring.footages, measuring.series(), strict=True)), content


def _record(
    session: Session,
    key: FilmKey,
    identity: str,
    measured: Measured,
    content: Content,
    index: int,
    seconds: float,
) -> FilmRecord:
    text = session.bench.conditioning.prompts[key.prompt]
    figures, features = {}, {}
    for length in session.lengths:
        name = length_name(length)
        figures[name] = asdict(FilmFigures.of(*measured, length, text, session.unheeded))
        if length in content:
            of_prompt, features[name] = content[length][index]
            figures[name] |= asdict(of_prompt)
    return FilmRecord(
        key=key,
        identity=identity,
        text=text,
        seed=session.bench.film_seed(key),
        figures=figures,
        features=features,
        curves=drift_curves(measured[1], curve_edges(session.lengths[-1])),
        seconds=round(seconds, 2),
    )


def _cut(pieces: Iterator[Tensor], num_frames: int) -> Iterator[Tensor]:
    """The first frames of films in pieces; whole chunks may be more than what was asked for."""
    left = num_frames
    for piece in pieces:
        yield piece[:, :, :left].float()
        left -= piece.shape[2]
        if left <= 0:
            return


def _pictures(piece: Tensor) -> np.ndarray:
    """B 3 F H W in [-1, 1] to uint8 B F H W C."""
    return to_bytes(rearrange(piece, "b c f h w -> b f h w c") / 2 + 0.5).cpu().numpy()


def in_batches(keys: Sequence[FilmKey], batch: int) -> list[list[FilmKey]]:
    """Films that are made together."""
    return [list(keys[first : first + batch]) for first in range(0, len(keys), batch)]
