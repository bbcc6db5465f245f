"""What the rolling cache says that it holds is what it holds."""

from __future__ import annotations

import random

import pytest
import torch

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.kv_cache import RollingKVCache
from sfpp_core.rollout.kv_quantization import CACHE_FORMS, CacheForm
from tests.helpers.models import TINY

TOKENS = 2
CONFIGS = [
    RolloutConfig(chunk=3, window=9),
    RolloutConfig(chunk=3, window=7),
    RolloutConfig(chunk=2, window=2),
    RolloutConfig(chunk=3, window=10, sink=2),
    RolloutConfig(chunk=2, window=7, sink=5),
    RolloutConfig(chunk=1, window=3, sink=1),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.chunk}-{config.window}-{config.sink}")
def test_visible_frames_name_the_slots_of_the_contents(config: RolloutConfig) -> None:
    """Frames are written as their own numbers, and must be found where they are said to be."""
    cache = RollingKVCache(TINY, config, batch=1, tokens_per_frame=TOKENS, device="cpu", dtype=torch.float32)
    assert cache.visible_frames() == ()
    for made in range(0, 8 * config.window, config.chunk):
        numbers = torch.tensor(cache.positions(config.chunk), dtype=torch.float32).repeat_interleave(TOKENS)
        chunk = numbers[None, :, None, None].expand(1, -1, TINY.num_heads, TINY.head_dim)
        with torch.no_grad():
            for layer in range(TINY.num_layers):
                cache.extend(layer, chunk, -chunk)
        cache.commit(config.chunk)

        end = made + config.chunk
        remembered = {frame for frame in range(end) if frame < config.sink or frame >= end - config.window}
        latest = sorted(remembered)[-(config.window - config.sink) :]
        expected = {frame for frame in remembered if frame < config.sink or frame in latest}
        assert sorted(cache.visible_frames()) == sorted(expected)
        for layer in range(TINY.num_layers):
            keys, values = cache.contents(layer)
            assert keys[0, ::TOKENS, 0, 0].tolist() == list(cache.visible_frames())
            assert torch.equal(keys, -values) and keys.shape[1] == TOKENS * len(expected)


DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")),
]


def page_locked(shape: tuple[int, ...], /, *, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype, pin_memory=torch.cuda.is_available())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", CACHE_FORMS)
@pytest.mark.parametrize("config", CONFIGS[2:5], ids=lambda config: f"{config.chunk}-{config.window}-{config.sink}")
def test_a_cache_in_cpu_memory_gives_the_same_bits(config: RolloutConfig, form: CacheForm, device: str) -> None:
    """Whatever is asked of it in whatever order: passes that break off, layers out of order, leaps, snapshots."""
    sizes = {"batch": 2, "tokens_per_frame": TOKENS, "device": device, "dtype": torch.float32, "form": form}
    here, there = (RollingKVCache(TINY, config, **sizes, cpu_memory=memory) for memory in (None, page_locked))
    draw = random.Random(0)
    for number in range(60):
        chunk = torch.randn(2, config.chunk * TOKENS, TINY.num_heads, TINY.head_dim, device=device)
        layers = list(range(TINY.num_layers))
        if number % 7 == 3:
            draw.shuffle(layers)
        for layer in layers[: draw.choice((1, 3, 3, 3))]:
            with torch.set_grad_enabled(draw.random() < 0.2):
                for ours, theirs in zip(
                    here.extend(layer, chunk, -chunk), there.extend(layer, chunk, -chunk), strict=True
                ):
                    assert torch.equal(ours, theirs)
        leap = draw.random()
        for cache in (here, there):
            if leap < 0.6:
                cache.commit(config.chunk)
            elif leap < 0.7:
                cache.seek(cache.num_frames + config.chunk)
            elif leap < 0.75:
                cache.start_at(cache.num_frames)
        if leap > 0.9:
            snapshots = here.snapshot(), there.snapshot()
            here.restore(snapshots[1])
            there.restore(snapshots[0])
        layer = draw.randrange(TINY.num_layers)
        for ours, theirs in zip(here.contents(layer), there.contents(layer), strict=True):
            assert torch.equal(ours, theirs)
        assert here.visible_frames() == there.visible_frames()


@pytest.mark.parametrize("form", CACHE_FORMS)
def test_a_chunk_sees_itself_as_computed_and_its_past_as_kept(form: CacheForm) -> None:
    config = RolloutConfig(chunk=1, window=3)
    cache = RollingKVCache(TINY, config, batch=1, tokens_per_frame=TOKENS, device="cpu", dtype=torch.float32, form=form)
    past, present = torch.randn(2, 1, TOKENS, TINY.num_heads, TINY.head_dim, generator=torch.Generator().manual_seed(0))
    for is_training in (False, True):
        with torch.no_grad():
            cache.clear()
            cache.extend(0, past, past)
            cache.commit(1)
            kept = [side.clone() for side in cache.contents(0)]
        with torch.set_grad_enabled(is_training):
            visible = cache.extend(0, present, present)
        for side, old in zip(visible, kept, strict=True):
            assert torch.equal(side[:, TOKENS:], present)
            assert torch.equal(side[:, :TOKENS], old)
            assert torch.equal(old, past) == (form == "computed")
