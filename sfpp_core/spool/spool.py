"""The folder of finished chunks: one folder a film, one file a chunk.

    with Spool(root).film(state, circumstances) as film:
        latents = film.find(text, recache=False)    # None: not made yet
        film.keep(chunk, state)

Chunks are written by a thread while the next is made; no more than a few wait, and after the block all are on disk.
Nothing here depends on a process ending well: files are whole or not there, and locks end with the process that holds
them.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from torch import Tensor

from ..files import Workplace, working_in
from ..rollout.direction import Direction
from ..rollout.state import Chunk, RolloutState
from .chunk_file import DamagedChunkError, read_chunk, write_chunk
from .identity import Chain
from .use import in_use

logger = logging.getLogger(__name__)

MOST_WAITING = 2
"""Chunks that wait to be written. A disk that is slower than the sampler makes it wait, and memory does not grow."""
KEY_LENGTH = 20
"""Hexadecimal digits of a digest that names are made of; the file holds all of them."""


class SpoolError(OSError):
    """A finished chunk could not be kept; the message says where, why, and what is safe."""


class Spool:
    """Films on their way, under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def film(self, state: RolloutState, circumstances: Mapping[str, str], *, keeps: bool = True) -> Iterator[FilmSpool]:
        """The chunks that continue `state`, held against cleaning until the block ends.

        circumstances: see `film_identity`. keeps: whether chunks are written and found; not where nothing tells a film
        from another. Raises SpoolError if there is no place for them.
        """
        chain = Chain(state, circumstances)
        _, _, height, width = state.shape
        folder = self.root / f"seed{state.seed}_{width}x{height}_{chain.film[:KEY_LENGTH]}"
        with ExitStack() as held:
            try:
                held.enter_context(in_use(folder))
                workplace = held.enter_context(working_in(folder))
            except OSError as problem:
                raise SpoolError(
                    f"{folder} cannot be made: {problem.strerror or problem}. Finished chunks are kept there; make "
                    "space on that disk, or make the folder writable."
                ) from problem
            # Behind the hold: what is still to be written when the block ends is written while the folder is held.
            writer = held.enter_context(ThreadPoolExecutor(1, thread_name_prefix="sfpp-spool"))
            film = FilmSpool(workplace, chain, state, writer, keeps=keeps)
            yield film
            film.finish()


class FilmSpool:
    """The chunks of one film that come after a state."""

    def __init__(
        self, workplace: Workplace, chain: Chain, state: RolloutState, writer: ThreadPoolExecutor, *, keeps: bool
    ) -> None:
        """writer: has one thread. keeps: whether chunks are written and found."""
        self._keeps = keeps
        self._num_before = len(state.chunks)
        self._workplace = workplace
        self._chain = chain
        self._state = state
        self._writer = writer
        self._waiting: deque[tuple[int, Future[None]]] = deque()
        self._failed: int | None = None
        """Number of the first chunk that could not be written."""
        self._found: str | None = None

    @property
    def folder(self) -> Path:
        """Where the chunks are."""
        return self._workplace.folder

    def find(self, text: Tensor, *, recache: bool = False) -> Tensor | None:
        """The next chunk's latents, if `text` [1 or B, L, text_dim] is to rule it; None if not made, or damaged.

        recache: whether the past is encoded anew for it.
        """
        if not self._keeps:
            return None
        key = self._chain.key(text, recache=recache)
        try:
            latents = read_chunk(self.folder / self._name(key), key, self._next_shape())
        except FileNotFoundError:
            return None
        except DamagedChunkError as damage:
            logger.warning("A finished chunk is damaged and made again: %s.", damage)
            return None
        self._found = key
        return latents

    def keep(self, chunk: Chunk, state: RolloutState) -> None:
        """Go on behind a chunk that was made or found; `state` is the film with it. What was not found is written.

        Raises SpoolError if the disk does not take it, or did not take one before it.
        """
        key = self._chain.key(state.texts[chunk.text], recache=chunk.recached)
        if self._keeps and self._found != key:
            while len(self._waiting) >= MOST_WAITING:
                self._await_oldest()
            job = self._writer.submit(write_chunk, self._workplace, self._name(key), key, chunk.latents)
            self._waiting.append((len(self._state.chunks), job))
        self._chain.add(chunk, state)
        self._state = state

    def finish(self) -> None:
        """Wait until all chunks are on disk. Raises SpoolError if one is not."""
        while self._waiting:
            self._await_oldest()

    def num_kept(self) -> int:
        """Chunks of the film, those of the state that it began with included, that are safe once all is written."""
        with suppress(SpoolError):
            self.finish()
        if not self._keeps:
            return self._num_before
        return len(self._state.chunks) if self._failed is None else self._failed

    def _await_oldest(self) -> None:
        number, job = self._waiting.popleft()
        try:
            job.result()
        except BaseException as problem:
            self._failed = number if self._failed is None else self._failed
            if not isinstance(problem, OSError):
                raise
            raise SpoolError(
                f"chunk {number + 1} could not be written to {self.folder}: {problem.strerror or problem}. All "
                f"{number} before it are safe: make space on that disk and queue the same workflow again."
            ) from problem

    def plan(self, direction: Direction, num_chunks: int) -> str:
        """A short name for what so many chunks under a direction make of this film, always the same."""
        return self._chain.plan(direction, num_chunks)[:KEY_LENGTH]

    def _next_shape(self) -> tuple[int, ...]:
        batch, channels, height, width = self._state.shape
        return batch, channels, self._state.config.chunk_frames(self._state.num_frames), height, width

    def _name(self, key: str) -> str:
        return f"{len(self._state.chunks):06d}_{key[:KEY_LENGTH]}.safetensors"
