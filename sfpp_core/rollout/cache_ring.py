"""Rings of frames, one a layer: on the network's device, or in CPU memory, from where a layer at a time is fetched.

Every part of a frame (see `cache_form`) has the axes batch and frame in front. A ring does not know which frame lies in
which slot.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .cache_form import Part, Parts, Shape
from .side_stream import SideStream

NUM_ROOMS = 2
"""Layers of an offloaded cache that have room on the device: the one that attends and the one that comes next."""


class AllocateMemory(Protocol):
    """Makes CPU memory, zeroed, as `torch.zeros` does."""

    def __call__(self, shape: Shape, /, *, dtype: torch.dtype) -> Tensor: ...


class Run(NamedTuple):
    """Adjacent frames of a chunk that go to adjacent slots."""

    slot: int
    first: int
    """In the chunk."""
    length: int


def place(target: Tensor, chunk: Tensor, runs: Iterable[Run]) -> None:
    """Put a chunk's frames into their slots; both [B, frames, ...]."""
    for slot, first, length in runs:
        target[:, slot : slot + length] = chunk[:, first : first + length]


class CacheRing(Protocol):
    """Holds the parts of every layer's frames."""

    def extend(self, layer: int, chunk: Parts, runs: Sequence[Run], num_slots: int) -> Parts:
        """Write a chunk to a layer's slots and return the first `num_slots`, on the device; valid until the next."""
        ...

    def read(self, layer: int, num_slots: int) -> Parts:
        """The first slots of a layer, on the device, to be read only; valid until the next."""
        ...

    def whole(self, layer: int) -> Parts:
        """All slots of a layer where they rest, with nothing under way to or from them."""
        ...

    def forget_fetched(self) -> None:
        """Told after somebody has written to what `whole` gave."""
        ...


class ResidentRing:
    """Rests on the network's device."""

    def __init__(self, num_layers: int, parts: Sequence[Part], device: torch.device) -> None:
        # Zeroed, not empty: a slot may be attended to before it is written, and must be finite.
        self._layers = [
            tuple(torch.zeros(part.shape, dtype=part.dtype, device=device) for part in parts) for _ in range(num_layers)
        ]

    def extend(self, layer: int, chunk: Parts, runs: Sequence[Run], num_slots: int) -> Parts:
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

    def __init__(self, num_layers: int, parts: Sequence[Part], device: torch.device, allocate: AllocateMemory) -> None:
        self._layers = [tuple(allocate(part.shape, dtype=part.dtype) for part in parts) for _ in range(num_layers)]
        self._rooms = [
            tuple(torch.zeros(part.shape, dtype=part.dtype, device=device) for part in parts) for _ in range(NUM_ROOMS)
        ]
        self._stream = SideStream(device)
        for part in (*self._rooms[0], *self._rooms[1]):
            self._stream.uses(part)
        self._fetched: tuple[int, int] | None = None
        """Layer in the first of the rooms, and how many of its slots."""

    def extend(self, layer: int, chunk: Parts, runs: Sequence[Run], num_slots: int) -> Parts:
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
