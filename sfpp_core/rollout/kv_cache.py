"""The rolling KV cache: keys and values of the frames inside the window, in a ring that nothing ever moves in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..wan.config import WanConfig
from .cache_form import CacheForm, Part, Parts, codecs
from .cache_ring import AllocateMemory, CacheRing, OffloadedRing, ResidentRing, Run, place
from .config import RolloutConfig


@dataclass(frozen=True, slots=True, eq=False)
class KVSnapshot:
    """A copy of a cache at rest on the CPU: keys and values of each layer [B, window tokens, N, D], frames seen.

    They are in the form in which the cache kept them; scales belong to int8 alone, see `cache_form`.
    """

    num_frames: int
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    key_scales: tuple[Tensor, ...] = ()
    """[B, window, 1, N, D]."""
    value_scales: tuple[Tensor, ...] = ()
    """[B, window, tokens of a frame, N, 1]."""
    skipped: int = 0
    """Latent frames after the sink that the cache was never shown; see `RollingKVCache.start_at`."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the snapshot holds."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values, *self.key_scales, *self.value_scales))


class RollingKVCache:
    """Keys (already rotated to absolute positions) and values of the sink and of the latest frames, for every layer.

    Frame f lies in slot f while f < sink, afterwards in slot sink + (f - sink - skipped) mod (window - sink): a new
    chunk lands on exactly the frames that leave the window, so nothing is shifted. Attention does not mind the order of
    keys.
    A chunk is written anew at every denoising step and counts as past only once `commit` is called, after the clean
    pass; an interrupted step therefore leaves a valid cache. With gradients on, `extend` gives a chunk that keeps its
    gradient beside a past that has none, in the same order, and leaves the ring as it is.

    The past may be kept in eight bits, and outside of the device. A chunk attends to itself as computed, and to the
    past as it is kept: so a film's bits depend on the form, but not on where the past rests, nor on how often it is
    interrupted, saved or rebuilt.
    """

    def __init__(
        self,
        model: WanConfig,
        config: RolloutConfig,
        *,
        batch: int,
        tokens_per_frame: int,
        device: torch.device | str,
        dtype: torch.dtype,
        form: CacheForm = "computed",
        cpu_memory: AllocateMemory | None = None,
    ) -> None:
        """dtype: of what `extend` gives back. cpu_memory: makes the memory that the cache rests in (page-locked, for
        copies beside the computation); None: it rests on the device. Raises ValueError for an unknown form.
        """
        device = torch.device(device)
        self._window = config.window
        self._sink = config.sink
        self._tokens = tokens_per_frame
        self._num_frames = 0
        self._skipped = 0
        self._codecs = codecs(form)
        sides = cache_parts(model, config, batch=batch, tokens_per_frame=tokens_per_frame, dtype=dtype, form=form)
        self._parts_per_side = len(sides[0])
        parts = (*sides[0], *sides[1])
        self._num_layers = model.num_layers
        self._ring: CacheRing = (
            ResidentRing(model.num_layers, parts, device)
            if cpu_memory is None
            else OffloadedRing(model.num_layers, parts, device, cpu_memory)
        )
        shape = sides[0][0].shape
        self._decoded = [
            None if codec.exact else torch.zeros(shape, device=device, dtype=dtype) for codec in self._codecs
        ]

    @staticmethod
    def estimate_nbytes(
        model: WanConfig,
        config: RolloutConfig,
        *,
        batch: int,
        tokens_per_frame: int,
        dtype: torch.dtype,
        form: CacheForm = "computed",
    ) -> int:
        """Bytes of a cache at rest: 287.5 MB a latent frame for the 1.3B model at 832x480 as computed in bf16."""
        sides = cache_parts(model, config, batch=batch, tokens_per_frame=tokens_per_frame, dtype=dtype, form=form)
        return model.num_layers * sum(part.nbytes for side in sides for part in side)

    @property
    def num_frames(self) -> int:
        """Latent frames committed so far, those that have left the window included."""
        return self._num_frames

    def positions(self, num_frames: int) -> tuple[int, ...]:
        """Absolute indices of the next `num_frames` latent frames."""
        return tuple(range(self._num_frames, self._num_frames + num_frames))

    def visible_frames(self) -> tuple[int, ...]:
        """Absolute index of the latent frame in each slot that is filled, in the order of `contents`."""
        latest = [-1] * self._filled(self._num_frames)
        for frame in range(max(self._sink + self._skipped, self._num_frames - self._window), self._num_frames):
            latest[self._slot(frame)] = frame
        for frame in range(min(self._sink, self._num_frames)):
            latest[frame] = frame
        return tuple(latest)

    def contents(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the filled slots, [B, slots * tokens, N, D] each; to be read only, before the next call
        of `contents` or `extend`."""
        filled = self._filled(self._num_frames)
        keys, values = self._decode(self._ring.read(layer, filled))
        return _tokens(keys), _tokens(values)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Place a chunk's keys and values [B, L, N, D] and return all that the chunk may attend to, itself included.

        What comes back is valid until the next call, unless gradients are on.
        """
        # "b (f t) n d -> b f t n d"; a view, and this is called for every layer.
        chunk = [side.unflatten(1, (-1, self._tokens)) for side in (keys, values)]
        num_new = chunk[0].shape[1]
        num_slots = self._filled(self._num_frames + num_new)
        runs = tuple(self._runs(num_new))
        if torch.is_grad_enabled():
            visible = [side.clone() for side in self._decode(self._ring.read(layer, num_slots))]
            is_placed = (False, False)
        else:
            parts = [part for codec, side in zip(self._codecs, chunk, strict=True) for part in codec.encode(side)]
            visible = self._decode(self._ring.extend(layer, tuple(parts), runs, num_slots))
            is_placed = tuple(codec.exact for codec in self._codecs)
        for target, new, done in zip(visible, chunk, is_placed, strict=True):
            if not done:
                place(target, new, runs)
        return _tokens(visible[0]), _tokens(visible[1])

    def commit(self, num_frames: int) -> None:
        """Declare the chunk of `num_frames` latent frames that was written last to be past."""
        self._num_frames += num_frames

    def seek(self, num_frames: int) -> None:
        """Continue after latent frame `num_frames`, as if those skipped had been committed. Only replay may do so."""
        self._num_frames = num_frames

    def clear(self) -> None:
        """Forget everything: the film's first frame is next."""
        self._num_frames = self._skipped = 0

    def start_at(self, num_frames: int) -> None:
        """Continue after latent frame `num_frames` with the sink alone in view, as if the film between had not been."""
        self._num_frames = max(num_frames, self._sink)
        self._skipped = self._num_frames - self._sink

    def snapshot(self) -> KVSnapshot:
        """Copy the cache to the CPU."""
        layers = [
            [part.detach().to("cpu", copy=True) for part in self._ring.whole(layer)]
            for layer in range(self._num_layers)
        ]
        columns = list(zip(*layers, strict=True))
        keys, values = columns[: self._parts_per_side], columns[self._parts_per_side :]
        scales = [column for side in (keys, values) for column in side[1:]] or [(), ()]
        return KVSnapshot(
            self._num_frames, tuple(map(_tokens, keys[0])), tuple(map(_tokens, values[0])), *scales, self._skipped
        )

    def restore(self, snapshot: KVSnapshot) -> None:
        """Take over a snapshot of a cache of the same sizes and form; the snapshot itself is left as it is."""
        sides = ((snapshot.keys, snapshot.key_scales), (snapshot.values, snapshot.value_scales))
        columns = [column for side in sides for column in side if column]
        for layer, stored in enumerate(zip(*columns, strict=True)):
            for own, part in zip(self._ring.whole(layer), stored, strict=True):
                own.copy_(part.view(own.shape))
        self._ring.forget_fetched()
        self._num_frames, self._skipped = snapshot.num_frames, snapshot.skipped

    def _decode(self, parts: Parts) -> list[Tensor]:
        """Keys and values [B, slots, tokens, N, D] of these slots, as attention takes them."""
        sides = parts[: self._parts_per_side], parts[self._parts_per_side :]
        num_slots = parts[0].shape[1]
        rooms = [None if room is None else room[:, :num_slots] for room in self._decoded]
        return [codec.decode(side, room) for codec, side, room in zip(self._codecs, sides, rooms, strict=True)]

    def _runs(self, num_new: int) -> Iterator[Run]:
        """Cut the next frames into runs of adjacent slots."""
        frame, end = self._num_frames, self._num_frames + num_new
        while frame < end:
            slot = self._slot(frame)
            room = (self._sink if frame < self._sink else self._window) - slot
            length = min(room, end - frame)
            yield Run(slot, frame - self._num_frames, length)
            frame += length

    def _slot(self, frame: int) -> int:
        """Where a frame lies in the ring."""
        if frame < self._sink:
            return frame
        return self._sink + (frame - self._sink - self._skipped) % (self._window - self._sink)

    def _filled(self, num_frames: int) -> int:
        """Slots in use after latent frame `num_frames`."""
        return min(num_frames - (self._skipped if num_frames > self._sink else 0), self._window)


def cache_parts(
    model: WanConfig, config: RolloutConfig, *, batch: int, tokens_per_frame: int, dtype: torch.dtype, form: CacheForm
) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """What one layer of a cache keeps of its keys and of its values."""
    shape = (batch, config.window, tokens_per_frame, model.num_heads, model.head_dim)
    keys, values = (codec.parts(shape, dtype) for codec in codecs(form))
    return keys, values


def _tokens(frames: Tensor) -> Tensor:
    """[B, frames, tokens, N, D] as [B, frames * tokens, N, D], a view."""
    return frames.flatten(1, 2)
