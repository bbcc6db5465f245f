"""The transformer: one forward pass for teacher, parallel student and cached rollout; sizes read off weights."""

from __future__ import annotations

import pytest
import torch

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.kv_cache import RollingKVCache
from sfpp_core.wan.attention import axis_widths, chunk_causal, rotary_table, rotate, sdpa_attention, teacher_forcing
from sfpp_core.wan.config import WAN21, WanConfig, infer_config
from sfpp_core.wan.transformer import WanTransformer
from tests.helpers.models import LATENT_HEIGHT, LATENT_WIDTH, TINY, random_text, random_transformer

TOKENS = WAN21.tokens_per_frame(LATENT_HEIGHT, LATENT_WIDTH)


def clip(num_frames: int, *, batch: int = 1, seed: int = 2) -> torch.Tensor:
    shape = (batch, TINY.in_channels, num_frames, LATENT_HEIGHT, LATENT_WIDTH)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def new_cache(config: RolloutConfig, *, batch: int = 1) -> RollingKVCache:
    return RollingKVCache(TINY, config, batch=batch, tokens_per_frame=TOKENS, device="cpu", dtype=torch.float32)


@pytest.mark.parametrize(
    "config",
    [
        RolloutConfig(chunk=3, window=9),
        RolloutConfig(chunk=3, window=7, sink=2),
        RolloutConfig(chunk=1, window=4, sink=1),
    ],
)
@torch.inference_mode()
def test_cached_chunks_equal_one_parallel_pass(config: RolloutConfig) -> None:
    """Evicting from the ring and saying in advance what is seen are the same attention, past the window too."""
    network, text, x = random_transformer(), random_text(batch=2), clip(17, batch=2)
    timesteps = torch.rand(2, 17, generator=torch.Generator().manual_seed(4)) * 1000
    visibility = chunk_causal(range(17), chunk=config.chunk, window=config.window, sink=config.sink)
    parallel = network(x, timesteps, text, visibility=visibility)
    cache, context, pieces = new_cache(config, batch=2), network.embed_text(text), []
    for start in range(0, 17, config.chunk):
        frames = slice(start, start + config.chunk)
        pieces.append(network(x[:, :, frames], timesteps[:, frames], context, cache=cache))
        cache.commit(pieces[-1].shape[2])
    torch.testing.assert_close(torch.cat(pieces, dim=2), parallel, atol=2e-5, rtol=2e-5)


@torch.inference_mode()
def test_teacher_forcing_equals_denoising_against_a_clean_cache() -> None:
    config = RolloutConfig(chunk=3, window=6)
    network, text, clean, noisy = random_transformer(), random_text(), clip(12, seed=5), clip(12, seed=6)
    timesteps = torch.cat([torch.zeros(1, 9), torch.full((1, 12), 700.0)], dim=1)
    visibility, positions = teacher_forcing(range(12), chunk=3, window=6), (*range(9), *range(12))
    both = torch.cat([clean[:, :, :9], noisy], dim=2)
    parallel = network(both, timesteps, text, positions=positions, visibility=visibility)
    cache, pieces = new_cache(config), []
    for start in range(0, 12, 3):
        frames = slice(start, start + 3)
        pieces.append(network(noisy[:, :, frames], torch.full((1, 3), 700.0), text, cache=cache))
        network(clean[:, :, frames], torch.zeros(1, 3), text, cache=cache)
        cache.commit(3)
    torch.testing.assert_close(torch.cat(pieces, dim=2), parallel[:, :, 9:], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("start", [180, 1023, 9_000, 300_000])
@torch.inference_mode()
def test_only_distances_count_however_far_the_video_goes(start: int) -> None:
    """RoPE past Wan's table of 1024 frames: a clip at any position gives the same flow."""
    network, text, x = random_transformer(), random_text(), clip(6)
    timesteps = torch.full((1, 6), 500.0)
    here = network(x, timesteps, text)
    there = network(x, timesteps, text, positions=tuple(range(start, start + 6)))
    torch.testing.assert_close(there, here, atol=2e-4, rtol=1e-3)


def test_rotary_angles_are_the_closed_form() -> None:
    frames, height, width, head_dim = (5, 2000), 2, 3, 24
    cos, sin = rotary_table(frames, height, width, head_dim, torch.device("cpu"))
    widths = axis_widths(head_dim)
    assert sum(widths) == head_dim
    expected = []
    for frame in frames:
        for row in range(height):
            for column in range(width):
                angles = [
                    position * 10_000.0 ** (-2 * pair / axis)
                    for position, axis in zip((frame, row, column), widths, strict=True)
                    for pair in range(axis // 2)
                ]
                expected.append(angles)
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(cos[:, 0].double(), expected.cos(), atol=1e-7, rtol=0)
    torch.testing.assert_close(sin[:, 0].double(), expected.sin(), atol=1e-7, rtol=0)
    x = torch.randn(1, cos.shape[0], 2, head_dim)
    rotated = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.complex(cos, sin)
    torch.testing.assert_close(rotate(x, (cos, sin)), torch.view_as_real(rotated).flatten(-2))


def test_training_sees_the_same_cache_with_a_detached_past() -> None:
    """With gradients the chunk keeps its own, the past has none; the numbers are inference's, bit for bit."""
    config = RolloutConfig(chunk=3, window=6)
    network, text, x = random_transformer(), random_text(), clip(9)
    timesteps = torch.full((1, 3), 400.0)
    cache = new_cache(config)
    with torch.no_grad():
        for start in (0, 3):
            network(x[:, :, start : start + 3], timesteps, text, cache=cache)
            cache.commit(3)
        inferred = network(x[:, :, 6:], timesteps, text, cache=cache)
    trained = network(x[:, :, 6:].clone().requires_grad_(), timesteps, text, cache=cache)
    assert torch.equal(trained, inferred)
    trained.square().mean().backward()
    assert all(weight.grad is not None for weight in network.blocks.parameters())
    keys, _ = cache.extend(0, *[torch.zeros(1, 3 * TOKENS, TINY.num_heads, TINY.head_dim)] * 2)
    assert not keys.requires_grad


def test_the_attention_function_is_a_choice() -> None:
    seen = []

    def counting(q, k, v):
        seen.append((tuple(q.shape), tuple(k.shape)))
        return sdpa_attention(q, k, v)

    network = random_transformer()
    network.attention = counting
    x, timesteps, text = clip(2), torch.full((1, 2), 10.0), random_text()
    assert torch.equal(network(x, timesteps, text), random_transformer()(x, timesteps, text))
    head = (TINY.num_heads, TINY.head_dim)
    assert seen == [((1, 2 * TOKENS, *head), (1, 2 * TOKENS, *head)), ((1, 2 * TOKENS, *head), (1, 5, *head))] * 3


def test_sizes_are_read_off_the_weights() -> None:
    shapes = {name: tuple(weight.shape) for name, weight in random_transformer().state_dict().items()}
    assert infer_config(shapes, num_heads=2) == TINY
    with torch.device("meta"):
        published = WanTransformer(WanConfig(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30, text_dim=4096))
    assert infer_config({name: weight.shape for name, weight in published.state_dict().items()}) == published.config
    assert sum(weight.numel() for weight in published.parameters()) == 1_418_996_800


@pytest.mark.parametrize(
    ("change", "message"),
    [({"num_heads": 5}, "head width"), ({"freq_dim": 3}, "even"), ({"num_layers": 0}, "at least 1")],
)
def test_impossible_sizes_are_refused(change: dict[str, int], message: str) -> None:
    sizes = {"dim": 48, "ffn_dim": 96, "num_heads": 2, "num_layers": 3, "text_dim": 20}
    with pytest.raises(ValueError, match=message):
        WanConfig(**sizes | change)


def test_geometry_counts_frames_as_wan_does() -> None:
    assert [WAN21.pixel_frames(t) for t in (1, 3, 21, 1023)] == [1, 9, 81, 4089]
    assert [WAN21.latent_frames(n) for n in (1, 2, 5, 81, 82)] == [1, 2, 2, 21, 22]
    assert WAN21.tokens_per_frame(*WAN21.latent_size(480, 832)) == 1560
    with pytest.raises(ValueError, match="width is 840; .* Try 832"):
        WAN21.latent_size(480, 840)


def test_the_cache_has_the_size_it_announces() -> None:
    config = RolloutConfig(chunk=3, window=7, sink=2)
    announced = RollingKVCache.estimate_nbytes(TINY, config, batch=2, tokens_per_frame=TOKENS, dtype=torch.float32)
    assert new_cache(config, batch=2).snapshot().nbytes == announced
    published = WanConfig(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30, text_dim=4096)
    window = RollingKVCache.estimate_nbytes(
        published, RolloutConfig(window=21), batch=1, tokens_per_frame=1560, dtype=torch.bfloat16
    )
    assert window == 21 * 287_539_200
