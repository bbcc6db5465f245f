"""The rolling KV cache: keys and values of the frames inside the window, in a ring in which nothing ever moves.

`RollingKVCache` decides which frame goes to which slot. Rings hold the frames, one ring a layer, on the network's
device or in CPU memory, from which one layer at a time is fetched ahead. What is kept of a frame are tensors with the
axes batch and frame in front (see kv_quantization.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..wan.config import WanConfig
from .config import RolloutConfig
from .kv_quantization import CacheForm, Parts, Shape, TensorSpec, codecs


class CopyStream:
    """A second queue of work of a device, which waits for the first and is waited for only when told.

    A device without queues of its own (the CPU) does everything in the order in which it is asked.
    """

    def __init__(self, device: torch.device) -> None:
        queues = None if device.type == "cpu" else getattr(torch, device.type, None)
        self._device = device
        self._queues = queues if hasattr(queues, "Stream") else None
        self._stream = self._queues.Stream(device) if self._queues else None

    @property
    def runs_beside(self) -> bool:
        """Return whether there is a second queue: only then may a copy be asked for without waiting for it."""
        return self._queues is not None

    def after_computation(self) -> AbstractContextManager[object]:
        """Queue what the body asks for behind all that was computed so far, beside what is computed next."""
        if self._queues is None:
            return nullcontext()
        self._stream.wait_stream(self._queues.current_stream(self._device))
        return self._queues.stream(self._stream)

    def join(self) -> None:
        """Make what is computed next wait for all that was queued here."""
        if self._queues is not None:
            self._queues.current_stream(self._device).wait_stream(self._stream)

    def uses(self, tensor: torch.Tensor) -> None:
        """Keep the memory of a tensor, once it is dropped, until what is queued here by then is done."""
        if self._queues is not None:
            tensor.record_stream(self._stream)

    def finish(self) -> None:
        """Wait until all that was queued here is done."""
        if self._queues is not None:
            self._stream.synchronize()


NUM_ROOMS = 2
"""Layers of an offloaded cache that have room on the device: the one that attends and the one that comes next."""


class AllocateMemory(Protocol):
    """Makes CPU memory, zeroed, as `torch.zeros` does."""

    def __call__(self, shape: Shape, /, *, dtype: torch.dtype) -> Tensor: ...


class SlotSlice(NamedTuple):
    """Adjacent frames of a chunk that go to adjacent slots."""

    slot: int
    first: int
    """In the chunk."""
    length: int


def place(target: Tensor, chunk: Tensor, runs: Iterable[SlotSlice]) -> None:
    """Put a chunk's frames into their slots; both [B, frames, ...]."""
    for slot, first, length in runs:
        target[:, slot : slot + length] = chunk[:, first : first + length]


class CacheRing(Protocol):
    """Holds the parts of every layer's frames."""

    def extend(self, layer: int, chunk: Parts, runs: Sequence[SlotSlice], num_slots: int) -> Parts:
        """Write a chunk to a layer's slots and return the first `num_slots`, on the device; valid until the next."""
        ...

    def read(self, layer: int, num_slots: int) -> Parts:
        """The first slots of a layer, on the device, to be read only; valid until the next."""
        ...

    def whole(self, layer: int) -> Parts:
        """Return all slots of a layer where they rest, with nothing under way to or from them."""
        ...

    def forget_fetched(self) -> None:
        """Told after somebody has written to what `whole` gave."""
        ...


class ResidentRing:
    """Rests on the network's device."""

    def __init__(self, num_layers: int, parts: Sequence[TensorSpec], device: torch.device) -> None:
        # Zeroed, not empty: a slot may be attended to before it is written, and must be finite.
        self._layers = [
            tuple(torch.zeros(part.shape, dtype=part.dtype, device=device) for part in parts) for _ in range(num_layers)
        ]

    def extend(self, layer: int, chunk: Parts, runs: Sequence[SlotSlice], num_slots: int) -> Parts:
        for target, new in zip(self._layers[layer], chunk, strict=True):
            place(target, new, runs)
        return self.read(layer, num_slots)

    def read(self, layer: int, num_slots: int) -> Parts:
        return tuple(part[:, :num_slots] for part in self._layers[layer])

    def whole(self, layer: int) -> Parts:
        return self._layers[layer]

    def forget_fetched(self) -> None:
        """Nothing is ever fetched."""


class OffloadedRing:
    """Rests in CPU memory; `NUM_ROOMS` layers have room on the device.

    While a layer computes, the next one's slots are fetched, and its own new frames go back, on a stream beside it.
    Layers are expected in order, the first after the last; any other order is right too, but waits.
    """

    def __init__(
        self, num_layers: int, parts: Sequence[TensorSpec], device: torch.device, allocate: AllocateMemory
    ) -> None:
        self._layers = [tuple(allocate(part.shape, dtype=part.dtype) for part in parts) for _ in range(num_layers)]
        self._rooms = [
            tuple(torch.zeros(part.shape, dtype=part.dtype, device=device) for part in parts) for _ in range(NUM_ROOMS)
        ]
        self._stream = CopyStream(device)
        for part in (*self._rooms[0], *self._rooms[1]):
            self._stream.uses(part)
        self._fetched: tuple[int, int] | None = None
        """Layer in the first of the rooms, and how many of its slots."""

    def extend(self, layer: int, chunk: Parts, runs: Sequence[SlotSlice], num_slots: int) -> Parts:
        room = self._enter(layer, num_slots)
        for target, new in zip(room, chunk, strict=True):
            place(target, new, runs)
        beside = self._stream.runs_beside
        with self._stream.after_computation():
            for target, new in zip(self._layers[layer], chunk, strict=True):
                self._stream.uses(new)
                for slot, first, length in runs:
                    target[:, slot : slot + length].copy_(new[:, first : first + length], non_blocking=beside)
            self._fetch((layer + 1) % len(self._layers), num_slots)
        return tuple(part[:, :num_slots] for part in room)

    def read(self, layer: int, num_slots: int) -> Parts:
        room = self._enter(layer, num_slots)
        return tuple(part[:, :num_slots] for part in room)

    def whole(self, layer: int) -> Parts:
        self._stream.finish()
        return self._layers[layer]

    def forget_fetched(self) -> None:
        self._fetched = None

    def _enter(self, layer: int, num_slots: int) -> Parts:
        """The room that now holds a layer's first slots; the other room becomes the next to be fetched into."""
        if self._fetched is None or self._fetched[0] != layer or self._fetched[1] < num_slots:
            with self._stream.after_computation():
                self._fetch(layer, num_slots)
        self._stream.join()
        self._fetched = None
        self._rooms.reverse()
        return self._rooms[1]

    def _fetch(self, layer: int, num_slots: int) -> None:
        for room, part in zip(self._rooms[0], self._layers[layer], strict=True):
            room[:, :num_slots].copy_(part[:, :num_slots], non_blocking=self._stream.runs_beside)
        self._fetched = (layer, num_slots)


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
    A chunk is written again at every denoising step and counts as past only once `commit` is called, after the clean
    pass; an interrupted step therefore leaves a valid cache. With gradients on, `extend` gives a chunk that keeps its
    gradient beside a past that has none, in the same order, and leaves the ring as it is.

    The past may be kept in eight bits, and outside of the device. A chunk attends to itself as computed, and to the
    past as it is kept: so a video's bits depend on the form, but not on where the past rests, nor on how often it is
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
        """Allocate an empty cache.

        Args:
            dtype: of what `extend` returns.
            cpu_memory: allocates the memory that the cache rests in (page-locked, for copies beside the computation);
                None if it rests on the device.

        Raises:
            ValueError: the form is unknown.
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
        """Return keys and values of the filled slots, [B, slots * tokens, N, D] each.

        They are to be read only, before the next call of `contents` or `extend`.
        """
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
        """Forget everything: the video's first frame is next."""
        self._num_frames = self._skipped = 0

    def start_at(self, num_frames: int) -> None:
        """Continue after latent frame `num_frames` with the sink alone in view, as if nothing lay between."""
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

    def _runs(self, num_new: int) -> Iterator[SlotSlice]:
        """Cut the next frames into runs of adjacent slots."""
        frame, end = self._num_frames, self._num_frames + num_new
        while frame < end:
            slot = self._slot(frame)
            room = (self._sink if frame < self._sink else self._window) - slot
            length = min(room, end - frame)
            yield SlotSlice(slot, frame - self._num_frames, length)
            frame += length

    def _slot(self, frame: int) -> int:
        """Return where a frame lies in the ring."""
        if frame < self._sink:
            return frame
        return self._sink + (frame - self._sink - self._skipped) % (self._window - self._sink)

    def _filled(self, num_frames: int) -> int:
        """Slots in use after latent frame `num_frames`."""
        return min(num_frames - (self._skipped if num_frames > self._sink else 0), self._window)


def cache_parts(
    model: WanConfig, config: RolloutConfig, *, batch: int, tokens_per_frame: int, dtype: torch.dtype, form: CacheForm
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return what one layer of a cache keeps of its keys and of its values."""
    shape = (batch, config.window, tokens_per_frame, model.num_heads, model.head_dim)
    keys, values = (codec.parts(shape, dtype) for codec in codecs(form))
    return keys, values


def _tokens(frames: Tensor) -> Tensor:
    """[B, frames, tokens, N, D] as [B, frames * tokens, N, D], a view."""
    return frames.flatten(1, 2)
