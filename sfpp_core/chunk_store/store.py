"""The chunk store: one folder a video, one safetensors file a chunk.

    with ChunkStore(root).video(state, environment) as video:
        latents = video.find(text, recache=False)    # None: not made yet
        video.keep(chunk, state)

Chunks are written by a thread while the next is made. No more than a few wait, and after the block all are on disk.
Nothing depends on a process ending well: files are whole or not there, they are believed only if their checksum fits,
and locks end with the process that holds them.
"""

from __future__ import annotations

import errno
import logging
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..files import Workplace, working_in
from ..rollout.prompt_schedule import PromptSchedule
from ..rollout.rollout import Rollout
from ..rollout.state import Chunk, RolloutState
from .eviction import in_use
from .keys import Chain, tensor_digest

logger = logging.getLogger(__name__)

LATENTS = "latents"


class DamagedChunkError(ValueError):
    """A file that does not hold the chunk that it should; the message names the file and says why."""


def write_chunk(workplace: Workplace, name: str, key: str, latents: Tensor) -> None:
    """Write latents [B, C, T, H, W], float32, as the chunk `key`. Raises OSError if the disk does not take them."""
    described = {"key": key, "sha256": tensor_digest(latents)}
    with workplace.replacing(name) as temporary:
        temporary.write_bytes(save({LATENTS: latents.detach().to("cpu", torch.float32).contiguous()}, described))


def read_chunk(path: Path, key: str, shape: tuple[int, ...]) -> Tensor:
    """The latents of the chunk `key`, of `shape` [B, C, T, H, W].

    Raises DamagedChunkError if the file is cut, altered or another chunk's, FileNotFoundError if there is none.
    """
    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        with safe_open(path, "pt") as file:
            described = file.metadata() or {}
            # A copy: what is read is a view of the file, which could not be removed as long as the video is known.
            latents = file.get_tensor(LATENTS).clone()
    except (SafetensorError, OSError) as problem:
        raise DamagedChunkError(f"{path.name} cannot be read ({problem})") from problem
    if described.get("key") != key:
        raise DamagedChunkError(f"{path.name} holds another chunk")
    if tuple(latents.shape) != shape or latents.dtype != torch.float32:
        raise DamagedChunkError(f"{path.name} holds {latents.dtype} of shape {tuple(latents.shape)}, not {shape}")
    if described.get("sha256") != tensor_digest(latents):
        raise DamagedChunkError(f"{path.name} was altered: its checksum does not fit")
    return latents


SPACE, RIGHTS = "make space on that disk", "see to it that this program may write there"
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), SPACE),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), RIGHTS),
}
"""By the system's number of an error."""
OTHER_REMEDY = "see to that disk"

MOST_WAITING = 2
"""Chunks that wait to be written. A disk that is slower than the sampler makes it wait, and memory does not grow."""
KEY_LENGTH = 20
"""Hexadecimal digits of a digest that names are made of; the file holds all of them."""


class ChunkStoreError(OSError):
    """A finished chunk could not be kept; the message says where, why, and what is safe."""


class ChunkStore:
    """Videos on their way, under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def video(
        self, state: RolloutState, environment: Mapping[str, str], *, keeps: bool = True
    ) -> Iterator[VideoChunks]:
        """The chunks that continue `state`, held against cleaning until the block ends.

        environment: see `video_identity`. keeps: whether chunks are written and found; not where nothing tells a
        video from another. Raises ChunkStoreError if there is no place for them.
        """
        chain = Chain(state, environment)
        _, _, height, width = state.shape
        folder = self.root / f"seed{state.seed}_{width}x{height}_{chain.video[:KEY_LENGTH]}"
        with ExitStack() as held:
            try:
                held.enter_context(in_use(folder))
                workplace = held.enter_context(working_in(folder))
            except OSError as problem:
                raise ChunkStoreError(
                    f"{folder} cannot be made: {problem.strerror or problem}. Finished chunks are kept there: "
                    f"{REMEDIES.get(problem.errno, OTHER_REMEDY)}."
                ) from problem
            # Behind the hold: what is still to be written when the block ends is written while the folder is held.
            writer = held.enter_context(ThreadPoolExecutor(1, thread_name_prefix="sfpp-chunks"))
            video = VideoChunks(workplace, chain, state, writer, keeps=keeps)
            yield video
            video.finish()


class VideoChunks:
    """The chunks of one video that come after a state."""

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
        """The folder of the chunks."""
        return self._workplace.folder

    def find(self, text: Tensor, *, recache: bool = False) -> Tensor | None:
        """The next chunk's latents, if `text` [1 or B, L, text_dim] is to rule it; None if not made, or damaged.

        recache: whether the past is re-encoded for it.
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
        """Go on behind a chunk that was made or found; `state` is the video with it. What was not found is written.

        Raises ChunkStoreError if the disk does not take it, or did not take one before it.
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
        """Wait until all chunks are on disk. Raises ChunkStoreError if one is not."""
        while self._waiting:
            self._await_oldest()

    def num_kept(self) -> int:
        """Chunks of the video, those of the state that it began with included, that are safe once all is written."""
        with suppress(ChunkStoreError):
            self.finish()
        if not self._keeps:
            return self._num_before
        return len(self._state.chunks) if self._failed is None else self._failed

    def _await_oldest(self) -> None:
        number, job = self._waiting.popleft()
        try:
            job.result()
        except BaseException as problem:
            is_gone = not self.folder.is_dir()
            if self._failed is None:
                self._failed = self._num_before if is_gone else number
            if not isinstance(problem, OSError):
                raise
            told = f"chunk {number + 1} could not be written to {self.folder}"
            if is_gone:
                raise ChunkStoreError(
                    f"{told}: the folder was removed while the video was made, and the chunks in it with it. Queue the "
                    "same workflow again to make them again."
                ) from problem
            raise ChunkStoreError(
                f"{told}: {problem.strerror or problem}. All {number} before it are safe: "
                f"{REMEDIES.get(problem.errno, OTHER_REMEDY)} and queue the same workflow again."
            ) from problem

    def plan(self, schedule: PromptSchedule, num_chunks: int) -> str:
        """A short name for what so many chunks under a schedule make of this video, always the same."""
        return self._chain.plan(schedule, num_chunks)[:KEY_LENGTH]

    def _next_shape(self) -> tuple[int, ...]:
        batch, channels, height, width = self._state.shape
        return batch, channels, self._state.config.chunk_frames(self._state.num_frames), height, width

    def _name(self, key: str) -> str:
        return f"{len(self._state.chunks):06d}_{key[:KEY_LENGTH]}.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredChunk:
    """A chunk of a video."""

    chunk: Chunk
    is_reused: bool
    """Whether it came from the disk."""


class NonFiniteChunkError(ValueError):
    """A chunk holds NaN or infinity, and was not kept."""

    def __init__(self, number: int) -> None:
        """number: the chunk's place in the video, from 1."""
        super().__init__(
            f"chunk {number} holds non-finite values (NaN): the model overflowed. All {number - 1} before it are safe."
        )
        self.number = number


def resume_rollout(
    rollout: Rollout, schedule: PromptSchedule, num_chunks: int, video: VideoChunks
) -> Iterator[StoredChunk]:
    """Continue the rollout's video by `num_chunks` chunks under the schedule, yielding each on its way to disk.

    The rollout's state holds every chunk that was yielded, whatever ends the iteration.
    Raises ChunkStoreError if a chunk cannot be kept, NonFiniteChunkError if one holds NaN or infinity, and whatever
    the network or the rollout's `on_call` raises.
    """
    for _ in range(num_chunks):
        active = schedule.active_prompt(rollout.state)
        rollout.set_prompt(active.text, recache=active.recache)
        found = video.find(active.text, recache=active.recache)
        chunk = next(rollout.run(1)) if found is None else rollout.append(found)
        _require_finite(chunk, number=len(rollout.state.chunks))
        video.keep(chunk, rollout.state)
        yield StoredChunk(chunk=chunk, is_reused=found is not None)


def _require_finite(chunk: Chunk, *, number: int) -> None:
    """A chunk that overflowed would spoil all that follow, and be found again when the video is queued again."""
    if not torch.isfinite(chunk.latents).all():
        raise NonFiniteChunkError(number)
