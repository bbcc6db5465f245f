"""The rolling KV cache: keys and values of the frames inside the window, in a ring that nothing ever moves in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..wan.config import WanConfig
from .config import RolloutConfig


@dataclass(frozen=True, slots=True, eq=False)
class KVSnapshot:
    """A copy of a cache at rest on the CPU: keys and values of each layer [B, window tokens, N, D], frames seen."""

    num_frames: int
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    skipped: int = 0
    """Latent frames after the sink that the cache was never shown; see `RollingKVCache.start_at`."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the snapshot holds."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))


class RollingKVCache:
    """Keys (already rotated to absolute positions) and values of the sink and of the latest frames, for every layer.

    Frame f lies in slot f while f < sink, afterwards in slot sink + (f - sink - skipped) mod (window - sink): a new
    chunk lands on exactly the frames that leave the window, so nothing is shifted. Attention does not mind the order of
    keys.
    A chunk is written anew at every denoising step and counts as past only once `commit` is called, after the clean
    pass; an interrupted step therefore leaves a valid cache. With gradients on, `extend` gives a chunk that keeps its
    gradient beside a past that has none, in the same order, and leaves the ring as it is.
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
    ) -> None:
        self._window = config.window
        self._sink = config.sink
        self._tokens = tokens_per_frame
        self._num_frames = 0
        self._skipped = 0
        shape = (batch, config.window * tokens_per_frame, model.num_heads, model.head_dim)
        # Zeroed, not empty: after `seek` a slot may be attended to before it is written, and must be finite.
        self._keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(model.num_layers)]
        self._values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(model.num_layers)]

    @staticmethod
    def estimate_nbytes(
        model: WanConfig, config: RolloutConfig, *, batch: int, tokens_per_frame: int, dtype: torch.dtype
    ) -> int:
        """Bytes that a cache of these sizes takes: 287.5 MB a latent frame for the 1.3B model at 832x480 in bf16."""
        per_layer = 2 * batch * config.window * tokens_per_frame * model.dim * dtype.itemsize
        return model.num_layers * per_layer

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
        """Keys and values of the filled slots, [B, slots * tokens, N, D] each; views, to be read only."""
        filled = self._filled(self._num_frames) * self._tokens
        return self._keys[layer][:, :filled], self._values[layer][:, :filled]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Place a chunk's keys and values [B, L, N, D] and return all that the chunk may attend to, itself included."""
        return self._place(self._keys[layer], keys), self._place(self._values[layer], values)

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
        keys, values = (tuple(t.detach().to("cpu", copy=True) for t in side) for side in (self._keys, self._values))
        return KVSnapshot(self._num_frames, keys, values, self._skipped)

    def restore(self, snapshot: KVSnapshot) -> None:
        """Take over a snapshot of a cache of the same sizes; the snapshot itself is left as it is."""
        for own, stored in zip((*self._keys, *self._values), (*snapshot.keys, *snapshot.values), strict=True):
            own.copy_(stored)
        self._num_frames, self._skipped = snapshot.num_frames, snapshot.skipped

    def _place(self, ring: Tensor, chunk: Tensor) -> Tensor:
        num_new = chunk.shape[1] // self._tokens
        num_visible = self._filled(self._num_frames + num_new) * self._tokens
        target = ring[:, :num_visible]
        if torch.is_grad_enabled():
            target = target.clone()
        for slot, offset, length in self._runs(num_new):
            target[:, slot : slot + length] = chunk[:, offset : offset + length]
        return target

    def _runs(self, num_new: int) -> Iterator[tuple[int, int, int]]:
        """Cut the next frames into runs of adjacent slots: first token in the ring, first in the chunk, how many."""
        frame, end = self._num_frames, self._num_frames + num_new
        while frame < end:
            slot = self._slot(frame)
            room = (self._sink if frame < self._sink else self._window) - slot
            length = min(room, end - frame)
            yield slot * self._tokens, (frame - self._num_frames) * self._tokens, length * self._tokens
            frame += length

    def _slot(self, frame: int) -> int:
        """Where a frame lies in the ring."""
        if frame < self._sink:
            return frame
        return self._sink + (frame - self._sink - self._skipped) % (self._window - self._sink)

    def _filled(self, num_frames: int) -> int:
        """Slots in use after latent frame `num_frames`."""
        return min(num_frames - (self._skipped if num_frames > self._sink else 0), self._window)
