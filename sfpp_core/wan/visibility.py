"""Which frames a frame may attend to when a whole clip passes through a causal network at once.

It says in advance what the rolling cache does by eviction, so that a parallel pass equals a rollout: a frame sees its
own chunk, the sink, and past frames no older than the window allows; the window counts sink and current chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True, slots=True)
class Visibility:
    """Queries and keys in neighbouring pieces, and the pieces of keys that each piece of queries sees.

    Lengths are latent frames; `in_tokens` makes them tokens. A few dozen whole numbers stand for a mask of queries by
    keys, 3.7 GB of booleans for teacher forcing with 21 frames of 832x480; see `attention.attend`.
    """

    queries: tuple[int, ...]
    """Lengths of the pieces of queries."""
    keys: tuple[int, ...]
    """Lengths of the pieces of keys."""
    seen: tuple[tuple[int, ...], ...]
    """For each piece of queries the pieces of keys that it sees, ascending, at least one."""

    def in_tokens(self, tokens_per_frame: int) -> Visibility:
        """The same for the tokens of the frames."""
        return Visibility(
            queries=tuple(length * tokens_per_frame for length in self.queries),
            keys=tuple(length * tokens_per_frame for length in self.keys),
            seen=self.seen,
        )


def chunk_causal(frames: range, *, chunk: int, window: int, sink: int = 0) -> Visibility:
    """Of a clip with absolute indices `frames`, cut into chunks from its first: own chunk, sink, the window's past."""
    chunks = _chunks(frames, chunk)
    seen = [_seen(frames, own, own.start - frames.start, window=window, sink=sink) for own in chunks]
    return _in_pieces(chunks, seen, num_keys=len(frames))


def num_past(num_frames: int, *, chunk: int) -> int:
    """How many of a clip's frames are the past of others: all but those of its last chunk."""
    return (num_frames - 1) // chunk * chunk


def teacher_forcing(frames: range, *, chunk: int, window: int, sink: int = 0, past: Sequence[int] = ()) -> Visibility:
    """Of a clip's clean frames, but those of the last chunk, then its noisy frames; `frames`: their absolute indices.

    A clean chunk sees clean chunks up to itself; a noisy chunk sees itself and earlier clean chunks, exactly as the
    chunk being denoised sees the cache in a rollout. Nobody would see the last chunk clean. Queries are those frames;
    keys are the clean frames before them that a cache holds, with absolute indices `past` in any order, then they.
    """
    beside = frames[: num_past(len(frames), chunk=chunk)]
    clean = (*past, *beside)
    chunks, clean_chunks = _chunks(frames, chunk), _chunks(beside, chunk)
    seen = [
        _seen(clean, own, first + own.start - frames.start, window=window, sink=sink)
        for first, half in ((len(past), clean_chunks), (len(clean), chunks))
        for own in half
    ]
    return _in_pieces(clean_chunks + chunks, seen, num_keys=len(clean) + len(frames))


def _chunks(frames: range, chunk: int) -> list[range]:
    return [frames[start : start + chunk] for start in range(0, len(frames), chunk)]


def _seen(clean: Sequence[int], own: range, own_key: int, *, window: int, sink: int) -> set[int]:
    """Numbers of the keys that the chunk `own` sees.

    clean: absolute index of the frame of each key that may be its past. own_key: number of its own first key.
    """
    oldest = own.stop - (window - sink)
    past = {key for key, frame in enumerate(clean) if frame < own.start and (frame >= oldest or frame < sink)}
    return past | set(range(own_key, own_key + len(own)))


def _in_pieces(chunks: Sequence[range], seen: Sequence[set[int]], *, num_keys: int) -> Visibility:
    """Neighbouring keys that the same chunks see make a piece."""
    viewers = [tuple(number for number, keys in enumerate(seen) if key in keys) for key in range(num_keys)]
    pieces = [(who, len(list(keys))) for who, keys in groupby(viewers)]
    return Visibility(
        queries=tuple(map(len, chunks)),
        keys=tuple(length for _, length in pieces),
        seen=tuple(
            tuple(piece for piece, (who, _) in enumerate(pieces) if number in who) for number in range(len(chunks))
        ),
    )
