"""The answer to too little memory names numbers that are right and a change that fits."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.kv_cache import RollingKVCache
from sfpp_core.rollout.memory import CacheMemory, CacheStorage, MemoryAvailable, MemoryEstimate, Settings, memory_advice
from sfpp_core.wan.config import WanConfig
from tests.helpers.models import TINY

GB = 10**9
WAN = WanConfig(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30, text_dim=4096)
CHOICES = {
    "as computed": CacheStorage(),
    "CPU memory": CacheStorage(offloaded=True),
    "int8": CacheStorage(form="int8"),
    "CPU memory, int8": CacheStorage(form="int8", offloaded=True),
}
DEMAND = MemoryEstimate(
    model=WAN,
    config=RolloutConfig(),
    storage=CacheStorage(),
    dtype=torch.bfloat16,
    batch=1,
    latent_size=(60, 104),
    step=int(1.5 * GB),
    can_resize=True,
)


def advice(free: float, cpu_free: float = 32.0, demand: MemoryEstimate = DEMAND) -> str:
    supply = MemoryAvailable(device="A card", total=8 * GB, free=int(free * GB), cpu_free=int(cpu_free * GB))
    return memory_advice(demand, supply, CHOICES, Settings(storage="cache_storage", beginning="in SFPP Sampler"))


def test_it_says_what_the_video_takes_and_what_there_is() -> None:
    said = advice(6.0, 20.0)
    assert said.startswith(
        "Not enough memory for 832x480 pixels with a window of 21 latent frames. A card has 8.0 GB, "
    )
    assert "of which 6.0 GB are free for this video. Its past needs 6.0 GB, and a step about 1.5 GB." in said
    assert '"CPU memory" 0.4 GB and 6.0 GB of CPU memory; "int8" 3.2 GB; "CPU memory, int8" 0.4 GB and 3.0 GB' in said
    assert "(20.0 GB of CPU memory are free)" in said


@pytest.mark.parametrize(
    ("free", "cpu_free", "change"),
    [
        (
            6.0,
            20.0,
            'Set cache_storage to "CPU memory" (the same video, made slower) or to "int8" (a video that differs',
        ),
        (3.0, 20.0, 'Set cache_storage to "CPU memory" (the same video, made slower).'),
        (6.0, 4.0, 'Set cache_storage to "int8" (a video that differs a little) or to "CPU memory, int8"'),
        (3.0, 4.0, 'Set cache_storage to "CPU memory, int8" (a video that differs a little, made slower).'),
    ],
)
def test_the_smallest_change_that_fits(free: float, cpu_free: float, change: str) -> None:
    assert change in advice(free, cpu_free)


def test_a_step_that_took_more_than_estimated_is_believed() -> None:
    """By the estimate it fits as it is, which it did not: what saves nothing is no help, what saves most of it is."""
    said = advice(7.6)
    assert "a step about 1.6 GB" in said and 'Set cache_storage to "CPU memory"' in said


@pytest.mark.parametrize(("free", "cpu_free"), [(3.4, 2.0), (2.0, 1.0), (0.9, 0.1)])
def test_else_a_smaller_video_that_really_fits(free: float, cpu_free: float) -> None:
    said = advice(free, cpu_free)
    wishes = re.findall(r'(window to (\d+)|width to (\d+) and height to (\d+)) with cache_storage "([^"]+)"', said)
    assert wishes and "None of these fits. Set " in said
    for _, window, width, height, name in wishes:
        demand = DEMAND
        if window:
            demand = replace(demand, config=replace(demand.config, window=int(window)))
        else:
            assert abs(int(width) / int(height) - 832 / 480) < 0.12 and int(width) % 16 == int(height) % 16 == 0
            share = int(width) * int(height) / (832 * 480)
            demand = replace(demand, latent_size=(int(height) // 8, int(width) // 8), step=int(demand.step * share))
        cache = demand.cache(CHOICES[name])
        assert cache.device + demand.step <= free * GB and cache.cpu <= cpu_free * GB, said


def test_a_video_that_has_begun_keeps_its_size() -> None:
    said = advice(0.9, 0.1, replace(DEMAND, can_resize=False))
    assert "a video keeps its size and window. For a new one, set width to" in said and "in SFPP Sampler." in said


def test_too_little_cpu_memory_is_answered_too() -> None:
    said = advice(6.0, 4.0, replace(DEMAND, storage=CacheStorage(offloaded=True)))
    assert "Its past needs 0.4 GB and 6.0 GB of CPU memory" in said
    assert 'Set cache_storage to "int8" (a video that differs a little) or to "CPU memory, int8"' in said


def test_where_nothing_fits_it_says_so() -> None:
    assert "Neither this nor a smaller video fits: free memory, or use a smaller model." in advice(0.0)


@pytest.mark.parametrize(
    "storage", [*CHOICES.values(), CacheStorage(form="fp8"), CacheStorage(form="fp8", offloaded=True)]
)
def test_announced_bytes_are_those_that_are_taken(storage: CacheStorage) -> None:
    """Counted where memory is made: on the device by all tensors of the cache, in CPU memory by what makes it."""
    sizes = {"batch": 2, "tokens_per_frame": 6, "dtype": torch.bfloat16}
    config = RolloutConfig(chunk=3, window=7)
    moved = []

    def allocate(shape: tuple[int, ...], /, *, dtype: torch.dtype) -> torch.Tensor:
        moved.append(torch.zeros(shape, dtype=dtype))
        return moved[-1]

    cache = RollingKVCache(
        TINY, config, **sizes, device="meta", form=storage.form, cpu_memory=allocate if storage.offloaded else None
    )
    announced = CacheMemory.of(TINY, config, storage, **sizes)
    assert announced.cpu == sum(tensor.nbytes for tensor in moved)
    assert announced.device == sum(tensor.nbytes for tensor in _tensors(cache) if tensor.device.type == "meta")


def _tensors(holder: object) -> list[torch.Tensor]:
    """All tensors that an object of the core holds, through its own objects, lists and tuples."""
    if isinstance(holder, torch.Tensor):
        return [holder]
    if isinstance(holder, (list, tuple)):
        return [tensor for part in holder for tensor in _tensors(part)]
    if type(holder).__module__.startswith("sfpp_core"):
        return [tensor for part in getattr(holder, "__dict__", {}).values() for tensor in _tensors(part)]
    return []
