"""Which clean passes make the cache what the next chunk is denoised against."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

from .state import Chunk, RolloutState


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoding:
    """A finished chunk's clean pass."""

    start: int
    """Its first latent frame."""
    chunk: Chunk
    text: int
    """Which of the state's texts it is encoded under."""

    @property
    def end(self) -> int:
        """The latent frame after its last."""
        return self.start + self.chunk.num_frames


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Past:
    """What an empty cache has to be shown, in order."""

    event: int
    """Index of the chunk before which the past was last encoded anew; 0 if it never was."""
    origin: int
    """Latent frame before which the cache is shown the sink alone; 0 for none."""
    encodings: tuple[Encoding, ...]

    def since(self, num_frames: int) -> Past:
        """What is left for a cache that has been shown everything before latent frame `num_frames`."""
        left = tuple(encoding for encoding in self.encodings if encoding.start >= num_frames)
        return replace(self, encodings=left)

    def felt(self, oldest: int, sink: int) -> Past:
        """Without what no longer changes a bit: chunks that end before frame `oldest` and hold no part of the sink."""
        left = tuple(encoding for encoding in self.encodings if encoding.start < sink or encoding.end > oldest)
        return replace(self, encodings=left)


def past_of(state: RolloutState, *, recaching_for: int | None = None) -> Past:
    """The past as the next chunk sees it.

    recaching_for: the text under which it is to be encoded anew for the next chunk; None if it is not.
    """
    starts = list(accumulate((chunk.num_frames for chunk in state.chunks), initial=0))
    own = [
        Encoding(start=start, chunk=chunk, text=chunk.text) for start, chunk in zip(starts, state.chunks, strict=False)
    ]
    event = _latest_event(state, recaching_for)
    if event == 0:
        return Past(event=0, origin=0, encodings=tuple(own))
    if event < len(own):
        text, num_frames = own[event].text, own[event].chunk.num_frames
    else:
        text, num_frames = recaching_for, state.config.chunk_frames(starts[event])
    oldest_seen = starts[event] - (state.config.window - state.config.sink - num_frames)
    sink = [encoding for encoding in own[:event] if encoding.start < state.config.sink]
    seen = [encoding for encoding in own[len(sink) : event] if encoding.end > oldest_seen]
    anew = [replace(encoding, text=text) for encoding in (*sink, *seen)]
    first_seen = seen[0].start if seen else starts[event]
    origin = first_seen if len(sink) + len(seen) < event else 0
    return Past(event=event, origin=origin, encodings=(*anew, *own[event:]))


def _latest_event(state: RolloutState, recaching_for: int | None) -> int:
    if recaching_for is not None and state.chunks:
        return len(state.chunks)
    return max((index for index, chunk in enumerate(state.chunks) if chunk.recached), default=0)
