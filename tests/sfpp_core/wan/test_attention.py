"""What a frame sees in a parallel pass: the frames that a rollout would show it, and attention to no others."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.kv_cache import RollingKVCache
from sfpp_core.wan.attention import Visibility, attend, chunk_causal, sdpa_attention, teacher_forcing
from tests.helpers.models import LATENT_HEIGHT, LATENT_WIDTH, TINY, random_text, random_transformer

SIZES = [
    {"chunk": 3, "window": 9},
    {"chunk": 3, "window": 21},
    {"chunk": 3, "window": 3},
    {"chunk": 3, "window": 7, "sink": 2},
    {"chunk": 2, "window": 9, "sink": 5},
    {"chunk": 1, "window": 4, "sink": 1},
]


def dense(visibility: Visibility) -> Tensor:
    """The mask [queries, keys] that a visibility stands for, true where a query sees a key."""
    pieces = torch.zeros(len(visibility.queries), len(visibility.keys), dtype=torch.bool)
    for row, seen in zip(pieces, visibility.seen, strict=True):
        row[list(seen)] = True
    rows = pieces.repeat_interleave(torch.tensor(visibility.queries), dim=0)
    return rows.repeat_interleave(torch.tensor(visibility.keys), dim=1)


def is_past(frame: int, seen: int, *, end: int, chunk: int, window: int, sink: int = 0) -> bool:
    """Whether a frame sees another one of an earlier chunk, by the definition; end: of the video."""
    start = frame - frame % chunk
    oldest = min(start + chunk, end) - (window - sink)
    return seen < start and (seen >= oldest or seen < sink)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("frames", [1, 6, 17, 24])
def test_a_clips_frame_sees_its_chunk_and_the_windows_past(frames: int, sizes: dict[str, int]) -> None:
    found = dense(chunk_causal(range(frames), **sizes))
    chunk = sizes["chunk"]
    expected = [
        [i // chunk == j // chunk or is_past(i, j, end=frames, **sizes) for j in range(frames)] for i in range(frames)
    ]
    assert found.tolist() == expected


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("first", [0, 6, 36])
def test_a_noisy_frame_sees_its_chunk_and_clean_past_in_the_cache_or_beside_it(
    first: int, sizes: dict[str, int]
) -> None:
    """With the cache's frames in the order of its ring."""
    config = RolloutConfig(**sizes)
    cache = RollingKVCache(TINY, config, batch=1, tokens_per_frame=1, device="cpu", dtype=torch.float32)
    cache.seek(first)
    past, frames, chunk = cache.visible_frames(), range(first, first + 13), sizes["chunk"]
    found = dense(teacher_forcing(frames, past=past, **sizes))
    beside = [frame for frame in frames if frame // chunk < frames[-1] // chunk]
    assert found.shape == (len(beside) + 13, len(past) + len(beside) + 13)
    for number, row in enumerate(found.tolist()):
        is_clean = number < len(beside)
        frame = beside[number] if is_clean else frames[number - len(beside)]
        before = [is_past(frame, other, end=frames.stop, **sizes) for other in (*past, *beside)]
        if is_clean:
            own = [False] * len(past) + [frame // chunk == other // chunk for other in beside]
            assert row == [*(a or b for a, b in zip(before, own, strict=True)), *[False] * 13]
        else:
            assert row == [*before, *(frame // chunk == other // chunk for other in frames)]


def test_the_window_counts_the_current_chunk_and_the_sink() -> None:
    mask = dense(chunk_causal(range(12), chunk=3, window=7, sink=1))
    assert mask[9].nonzero().flatten().tolist() == [0, 6, 7, 8, 9, 10, 11]
    assert mask[3].nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_attention_and_its_gradients_are_those_under_the_mask(sizes: dict[str, int]) -> None:
    """In float64, to rounding; keys that nobody sees have no gradient."""
    visibility = teacher_forcing(range(6, 20), past=(3, 4, 5, 0, 1, 2), **sizes).in_tokens(2)
    mask, draw = dense(visibility), torch.Generator().manual_seed(0)
    queries, keys = mask.shape
    q, k, v, direction = (
        torch.randn(2, length, 3, 8, generator=draw, dtype=torch.float64, requires_grad=True)
        for length in (queries, keys, keys, queries)
    )
    expected = rearrange(
        F.scaled_dot_product_attention(*(rearrange(x, "b l h d -> b h l d") for x in (q, k, v)), attn_mask=mask),
        "b h l d -> b l h d",
    )
    found = attend(sdpa_attention, q, k, v, visibility)
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=1e-12)
    gradients = [torch.autograd.grad((out * direction.detach()).sum(), (q, k, v)) for out in (found, expected)]
    for mine, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, reference, atol=1e-13, rtol=1e-12)
    hidden = ~mask.any(dim=0)
    assert hidden[:12].all() == (sizes["window"] == sizes["chunk"]), "a window of one chunk hides all of the cache"
    assert not gradients[0][1][:, hidden].any() and not gradients[0][2][:, hidden].any()


def test_the_kernel_gets_no_pair_that_is_not_seen() -> None:
    visibility = teacher_forcing(range(21), chunk=3, window=12, sink=1).in_tokens(2)
    pairs = 0

    def counting(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        nonlocal pairs
        pairs += q.shape[1] * k.shape[1]
        return sdpa_attention(q, k, v)

    mask = dense(visibility)
    queries, keys = (torch.randn(1, length, 1, 4) for length in mask.shape)
    attend(counting, queries, keys, keys, visibility)
    assert pairs == mask.sum() < 0.25 * mask.numel()


def test_without_a_visibility_every_query_sees_every_key() -> None:
    q, k, v = (torch.randn(1, length, 2, 4) for length in (3, 5, 5))
    assert torch.equal(attend(sdpa_attention, q, k, v), sdpa_attention(q, k, v))


@pytest.mark.filterwarnings("ignore")
def test_a_network_compiles_with_it_into_one_graph() -> None:
    network, text = random_transformer(), random_text()
    x = torch.randn(1, TINY.in_channels, 6, LATENT_HEIGHT, LATENT_WIDTH)
    timesteps = torch.tensor([[0.0] * 4 + [700.0] * 6])
    options = {"positions": (*range(4), *range(6)), "visibility": teacher_forcing(range(6), chunk=2, window=4)}
    inputs = (torch.cat([x[:, :, :4], x], dim=2), timesteps, text)
    expected = network(*inputs, **options)
    graphs = 0

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> object:
        nonlocal graphs
        graphs += 1
        return graph.forward

    with torch.no_grad():
        compiled = torch.compile(network, backend=backend, fullgraph=True)(*inputs, **options)
    torch.testing.assert_close(compiled, expected)
    assert graphs == 1
