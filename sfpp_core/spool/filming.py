"""A rollout whose finished chunks are kept, and which makes none that is there already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..rollout.direction import Direction
from ..rollout.rollout import Rollout
from ..rollout.state import Chunk
from .spool import FilmSpool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Filmed:
    """A chunk of a film."""

    chunk: Chunk
    is_reused: bool
    """Whether it came from the disk."""


def film_on(rollout: Rollout, direction: Direction, num_chunks: int, spool: FilmSpool) -> Iterator[Filmed]:
    """Continue the rollout's film by `num_chunks` chunks under the direction, yielding each on its way to disk.

    The rollout's state holds every chunk that was yielded, whatever ends the iteration.
    Raises SpoolError if a chunk cannot be kept, ValueError if one holds values that are no numbers, and whatever the
    network or the rollout's `on_call` raises.
    """
    for _ in range(num_chunks):
        ruling = direction.ruling(rollout.state)
        rollout.direct(ruling.text, recache=ruling.recache)
        found = spool.find(ruling.text, recache=ruling.recache)
        chunk = next(rollout.run(1)) if found is None else rollout.append(found)
        _require_finite(chunk, number=len(rollout.state.chunks))
        spool.keep(chunk, rollout.state)
        yield Filmed(chunk=chunk, is_reused=found is not None)


def _require_finite(chunk: Chunk, *, number: int) -> None:
    """A chunk that overflowed would spoil all that follow, and be found again when the film is queued again."""
    if not torch.isfinite(chunk.latents).all():
        raise ValueError(
            f"chunk {number} holds values that are no numbers (NaN): the model overflowed. All {number - 1} before it "
            "are safe. Load the model in bfloat16 or float32 instead of float16 or fp8 (weight_dtype), or lower the "
            "strength of its LoRAs, and queue again."
        )
