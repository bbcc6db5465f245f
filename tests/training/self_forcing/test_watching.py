"""How training looks at its videos: as they are, and in memory that neither their number nor their length adds to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.kv_cache import RollingKVCache
from sfpp_core.wan.config import to_vae_space
from sfpp_core.wan.transformer import WanTransformer
from tests.helpers.models import LATENT_HEIGHT, LATENT_WIDTH, TINY, random_text, random_transformer
from tests.helpers.vae_models import random_latents, random_vae
from training.models.sampling import decode, sample_one_by_one, sample_student
from training.scaling.counting import LiveBytes

ROLLOUT = RolloutConfig(chunk=2, window=6, steps=(1000.0, 500.0))
SIZE = (LATENT_HEIGHT, LATENT_WIDTH)
VIDEOS = 3


def texts() -> Tensor:
    """A prompt a video."""
    return torch.cat([random_text(seed=seed) for seed in range(VIDEOS)])


def memory_of_decoding(frames: int) -> int:
    """Bytes alive at most, the pictures that are handed back left out."""
    vae, latents = random_vae(dim=4), random_latents(frames)
    with LiveBytes() as live:
        pictures = decode(vae, latents)
    return live.peak - pictures.nbytes


def test_a_long_video_is_decoded_in_the_memory_of_a_short_one() -> None:
    assert memory_of_decoding(16) == memory_of_decoding(4)


@pytest.mark.parametrize("frames", [1, 5])
def test_pictures_are_those_of_the_pack_bit_for_bit(frames: int) -> None:
    vae, latents = random_vae(dim=4), random_latents(frames, batch=2)
    expected = torch.cat([vae.decode(to_vae_space(video)) for video in latents.split(1)])
    with torch.autocast("cpu", torch.bfloat16):
        pictures = decode(vae, latents)
    assert pictures.dtype is torch.float32 and torch.equal(pictures, expected)


class Remembering(WanTransformer):
    """Notes the videos of every call, and what the cache holds."""

    calls: set[tuple[int, torch.dtype, int]]

    def forward(self, x: Tensor, *args: object, cache: RollingKVCache, **options: object) -> Tensor:
        self.calls.add((x.shape[0], x.dtype, cache.snapshot().nbytes))
        return super().forward(x, *args, cache=cache, **options)


def remembering() -> Remembering:
    network = random_transformer(TINY, seed=1)
    network.__class__ = Remembering
    network.calls = set()
    return network


def test_videos_are_rolled_out_one_at_a_time_as_they_would_be_together() -> None:
    network, options = remembering(), {"config": ROLLOUT, "seed": 5, "frames": 8, "size": SIZE}
    together = sample_student(network, texts(), **options)
    network.calls.clear()
    apart = sample_one_by_one(network, texts(), **options, dtype=torch.float32)
    assert {videos for videos, *_ in network.calls} == {1}
    torch.testing.assert_close(apart, together, rtol=0, atol=1e-4)
    assert not torch.allclose(apart[0], apart[1], atol=0.1), "they are videos of their own"


def test_the_cache_is_in_the_dtype_that_is_computed_in() -> None:
    expected = RollingKVCache.estimate_nbytes(
        TINY, ROLLOUT, batch=1, tokens_per_frame=LATENT_HEIGHT * LATENT_WIDTH // 4, dtype=torch.bfloat16
    )
    network = remembering()
    with torch.autocast("cpu", torch.bfloat16):
        sample_one_by_one(network, texts(), config=ROLLOUT, seed=5, frames=8, size=SIZE, dtype=torch.bfloat16)
    assert network.calls == {(1, torch.bfloat16, expected)}
