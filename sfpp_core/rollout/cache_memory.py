"""Where a cache's memory is, and how much of it, before any is taken."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..wan.config import WanConfig
from .cache_form import CacheForm, codecs
from .cache_ring import NUM_ROOMS
from .config import RolloutConfig
from .kv_cache import RollingKVCache


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStorage:
    """How the past is kept."""

    form: CacheForm = "computed"
    """Decides the film's bits."""
    offloaded: bool = False
    """Whether it rests in CPU memory, a layer at a time fetched for its attention: costs time, changes no bit."""

    def __post_init__(self) -> None:
        codecs(self.form)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheMemory:
    """Bytes that a cache takes."""

    device: int
    """On the network's device, what it decodes and fetches to included."""
    cpu: int
    """In CPU memory besides; 0 if it rests on the device."""

    @classmethod
    def of(
        cls,
        model: WanConfig,
        config: RolloutConfig,
        storage: CacheStorage,
        *,
        batch: int,
        tokens_per_frame: int,
        dtype: torch.dtype,
    ) -> CacheMemory:
        """What the cache of a film needs in `storage`, computed in `dtype`."""
        sizes = {"batch": batch, "tokens_per_frame": tokens_per_frame, "dtype": dtype}
        at_rest = RollingKVCache.estimate_nbytes(model, config, **sizes, form=storage.form)
        computed = RollingKVCache.estimate_nbytes(model, config, **sizes)
        decoded = 0 if storage.form == "computed" else computed // model.num_layers
        if not storage.offloaded:
            return cls(device=at_rest + decoded, cpu=0)
        return cls(device=NUM_ROOMS * at_rest // model.num_layers + decoded, cpu=at_rest)
