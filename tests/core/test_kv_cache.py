"""What the rolling cache says that it holds is what it holds."""

from __future__ import annotations

import pytest
import torch

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.kv_cache import RollingKVCache

from .models import TINY

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
