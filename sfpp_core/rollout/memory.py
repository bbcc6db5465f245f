"""Memory of a rollout before any is taken, and what to change if it does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from ..wan.config import WAN21, WanConfig
from .config import RolloutConfig
from .kv_cache import NUM_ROOMS, RollingKVCache
from .kv_quantization import CacheForm, codecs


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStorage:
    """The form of the KV cache and the memory that holds it."""

    form: CacheForm = "computed"
    """Decides the video's bits."""
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
        """Return what the cache of a video needs in `storage`, computed in `dtype`."""
        sizes = {"batch": batch, "tokens_per_frame": tokens_per_frame, "dtype": dtype}
        at_rest = RollingKVCache.estimate_nbytes(model, config, **sizes, form=storage.form)
        computed = RollingKVCache.estimate_nbytes(model, config, **sizes)
        decoded = 0 if storage.form == "computed" else computed // model.num_layers
        if not storage.offloaded:
            return cls(device=at_rest + decoded, cpu=0)
        return cls(device=NUM_ROOMS * at_rest // model.num_layers + decoded, cpu=at_rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """The memory that a rollout asks for."""

    model: WanConfig
    config: RolloutConfig
    storage: CacheStorage
    dtype: torch.dtype
    """What the network computes in."""
    batch: int
    latent_size: tuple[int, int]
    """Height and width in latent cells."""
    step: int
    """Bytes that a network call is estimated to take besides weights and cache."""
    can_resize: bool
    """Whether size and window are still open: those of a video that has begun are not."""

    @property
    def pixels(self) -> tuple[int, int]:
        """Width and height of the pictures."""
        height, width = (side * WAN21.spatial_stride for side in self.latent_size)
        return width, height

    def cache(self, storage: CacheStorage) -> CacheMemory:
        """Return what the cache takes in `storage`."""
        tokens = WAN21.tokens_per_frame(*self.latent_size)
        return CacheMemory.of(
            self.model, self.config, storage, batch=self.batch, tokens_per_frame=tokens, dtype=self.dtype
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryAvailable:
    """The memory of this machine, in bytes, with nothing of the video in it."""

    device: str
    """The device's name, as an artist knows it."""
    total: int
    free: int
    cpu_free: int
    """The same as `free` if the device is the CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The names that a front end has for what can be changed, for sentences to those who use it."""

    storage: str
    """The setting that chooses where and in which form the cache is kept."""
    beginning: str
    """Where a new video is begun."""


def memory_advice(
    estimate: MemoryEstimate, available: MemoryAvailable, choices: Mapping[str, CacheStorage], settings: Settings
) -> str:
    """Say what the video takes, what there is, and the smallest change that fits.

    choices: what `settings.storage` offers here, from the smallest change to the largest.
    """
    now = estimate.cache(estimate.storage)
    if _fits(estimate, estimate.storage, available):
        # But it did not: so a step takes more than was left, whatever was estimated.
        estimate = replace(estimate, step=available.free - now.device + 1)
    smaller = {name: storage for name, storage in choices.items() if _saves(estimate.cache(storage), now)}
    fitting = {name: storage for name, storage in smaller.items() if _fits(estimate, storage, available)}
    width, height = estimate.pixels
    sentences = [
        f"Not enough memory for {width}x{height} pixels with a window of {estimate.config.window} latent frames.",
        f"{available.device} has {_size(available.total)}, of which {_size(available.free)} are free for this video. "
        f"Its past needs {_described(now)}, and a step about {_size(estimate.step)}.",
    ]
    if smaller:
        listed = "; ".join(f'"{name}" {_described(estimate.cache(storage))}' for name, storage in smaller.items())
        moved = any(storage.offloaded for storage in smaller.values())
        free = f" ({_size(available.cpu_free)} of CPU memory are free)" if moved else ""
        sentences.append(f"With another {settings.storage} the past needs: {listed}{free}.")
    if fitting:
        sentences.append(_recommended(fitting, settings))
    else:
        sentences.append(_smaller_video(estimate, available, choices, settings))
    return " ".join(sentences)


def _fits(estimate: MemoryEstimate, storage: CacheStorage, available: MemoryAvailable) -> bool:
    cache = estimate.cache(storage)
    return cache.device + estimate.step <= available.free and cache.cpu <= available.cpu_free


def _saves(cache: CacheMemory, now: CacheMemory) -> bool:
    return cache.device < now.device or cache.cpu < now.cpu


def _described(cache: CacheMemory) -> str:
    return f"{_size(cache.device)} and {_size(cache.cpu)} of CPU memory" if cache.cpu else _size(cache.device)


def _recommended(fitting: Mapping[str, CacheStorage], settings: Settings) -> str:
    """The first that fits, and the first of the other kind: the same video, or the same speed."""
    (name, storage), *others = fitting.items()
    sentence = f'Set {settings.storage} to "{name}" ({_effect(storage)})'
    for other, alternative in others:
        if alternative.offloaded != storage.offloaded:
            return f'{sentence} or to "{other}" ({_effect(alternative)}).'
    return f"{sentence}."


def _effect(storage: CacheStorage) -> str:
    video = "the same video" if storage.form == "computed" else "a video that differs a little"
    return f"{video}, made slower" if storage.offloaded else video


def _smaller_video(
    estimate: MemoryEstimate, available: MemoryAvailable, choices: Mapping[str, CacheStorage], settings: Settings
) -> str:
    """Say what fits if no storage does: the longest window or the largest picture, in a storage that allows it."""
    windows = {name: _window_that_fits(estimate, storage, available) for name, storage in choices.items()}
    sizes = {name: _latent_size_that_fits(estimate, storage, available) for name, storage in choices.items()}
    wishes = []
    if name := max((name for name in windows if windows[name]), key=windows.__getitem__, default=None):
        wishes.append(f'window to {windows[name]} with {settings.storage} "{name}"')
    if name := max((name for name in sizes if sizes[name]), key=sizes.__getitem__, default=None):
        width, height = replace(estimate, latent_size=sizes[name]).pixels
        wishes.append(f'width to {width} and height to {height} with {settings.storage} "{name}"')
    if not wishes:
        return "Neither this nor a smaller video fits: free memory, or use a smaller model."
    wish = ", or ".join(wishes)
    if estimate.can_resize:
        return f"None of these fits. Set {wish}."
    return (
        f"None of these fits, and a video keeps its size and window. For a new one, set {wish}, {settings.beginning}."
    )


def _window_that_fits(estimate: MemoryEstimate, storage: CacheStorage, available: MemoryAvailable) -> int | None:
    config = estimate.config
    # With less, a chunk would see nothing of the one before it.
    for window in range(config.window - 1, config.sink + 2 * config.chunk - 1, -1):
        if _fits(replace(estimate, config=replace(config, window=window)), storage, available):
            return window
    return None


def _latent_size_that_fits(
    estimate: MemoryEstimate, storage: CacheStorage, available: MemoryAvailable
) -> tuple[int, int] | None:
    """The largest picture of nearly the same shape; a step's memory is taken to grow with its area."""
    height, width = estimate.latent_size
    for patches in range(width // WAN21.patch - 1, 0, -1):
        size = max(1, round(patches * height / width)) * WAN21.patch, patches * WAN21.patch
        share = size[0] * size[1] / (height * width)
        if _fits(replace(estimate, latent_size=size, step=int(estimate.step * share)), storage, available):
            return size
    return None


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e8 else f"{max(0, nbytes) / 1e6:.1f} MB"
