"""The folder of finished chunks: one folder a film, one file a chunk.

    with Spool(root).film(state, circumstances) as film:
        latents = film.find(text, recache=False)    # None: not made yet
        film.keep(chunk, state)

Nothing here depends on a process ending well: files are whole or not there, and locks end with the process that holds
them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from ..rollout.direction import Direction
from ..rollout.state import Chunk, RolloutState
from .chunk_file import DamagedChunkError, read_chunk, write_chunk
from .identity import Chain
from .use import in_use

logger = logging.getLogger(__name__)

KEY_LENGTH = 20
"""Hexadecimal digits of a digest that names are made of; the file holds all of them."""


class SpoolError(OSError):
    """A finished chunk could not be kept; the message says where, why, and what is safe."""


class Spool:
    """Films on their way, under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def film(self, state: RolloutState, circumstances: Mapping[str, str]) -> Iterator[FilmSpool]:
        """The chunks that continue `state`, held against cleaning until the block ends.

        circumstances: see `film_identity`.
        """
        chain = Chain(state, circumstances)
        _, _, height, width = state.shape
        folder = self.root / f"seed{state.seed}_{width}x{height}_{chain.film[:KEY_LENGTH]}"
        with in_use(folder):
            yield FilmSpool(folder, chain, state)


class FilmSpool:
    """The chunks of one film that come after a state."""

    def __init__(self, folder: Path, chain: Chain, state: RolloutState) -> None:
        self.folder = folder
        self._chain = chain
        self._state = state
        self._found: str | None = None

    def find(self, text: Tensor, *, recache: bool = False) -> Tensor | None:
        """The next chunk's latents, if `text` [1 or B, L, text_dim] is to rule it; None if not made, or damaged.

        recache: whether the past is encoded anew for it.
        """
        key = self._chain.key(text, recache=recache)
        path = self._path(key)
        try:
            latents = read_chunk(path, key, self._next_shape())
        except FileNotFoundError:
            return None
        except DamagedChunkError as damage:
            logger.warning("A finished chunk is damaged and made again: %s.", damage)
            return None
        self._found = key
        return latents

    def keep(self, chunk: Chunk, state: RolloutState) -> None:
        """Go on behind a chunk that was made or found; `state` is the film with it. What was not found is written.

        Raises SpoolError if the disk does not take it.
        """
        key = self._chain.key(state.texts[chunk.text], recache=chunk.recached)
        path = self._path(key)
        try:
            if self._found != key:
                write_chunk(path, key, chunk.latents)
        except OSError as problem:
            kept = len(self._state.chunks)
            raise SpoolError(
                f"chunk {kept + 1} could not be written to {self.folder}: {problem.strerror or problem}. All "
                f"{kept} before it are safe: make space on that disk and queue the same workflow again."
            ) from problem
        self._chain.add(chunk, state)
        self._state = state

    def plan(self, direction: Direction, num_chunks: int) -> str:
        """A short name for what so many chunks under a direction make of this film, always the same."""
        return self._chain.plan(direction, num_chunks)[:KEY_LENGTH]

    def _next_shape(self) -> tuple[int, ...]:
        batch, channels, height, width = self._state.shape
        return batch, channels, self._state.config.chunk_frames(self._state.num_frames), height, width

    def _path(self, key: str) -> Path:
        return self.folder / f"{len(self._state.chunks):06d}_{key[:KEY_LENGTH]}.safetensors"
