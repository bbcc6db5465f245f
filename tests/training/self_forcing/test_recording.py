"""Windows as they are rolled in training, and what their gradient touches."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.kv_cache import RollingKVCache
from sfpp_core.rollout.rollout import Rollout
from sfpp_core.wan.transformer import KeyValueCache, WanTransformer
from tests.helpers.models import TINY, random_transformer
from tests.helpers.self_forcing_videos import SEEDS, beginning, chain, drawn, inferred, videos
from training.self_forcing.rollouts import (
    RecordedStep,
    RecordedWindow,
    RolloutInputs,
    backpropagate,
    estimate,
    record,
    roll,
)

STEPS = (1000.0, 500.0)
CONFIGS = {
    "rolls over": RolloutConfig(chunk=2, window=6, steps=STEPS),
    "sink": RolloutConfig(chunk=2, window=5, sink=1, steps=STEPS),
    "chunk does not divide the window": RolloutConfig(chunk=3, window=7, steps=(1000.0, 750.0, 500.0)),
    "more steps in the first chunk": RolloutConfig(chunk=2, window=6, steps=STEPS, first_chunk_steps=(1000, 700, 400)),
    "noise in the cache": RolloutConfig(chunk=2, window=6, steps=STEPS, context_noise=50.0),
}
TWO_LAYERS = replace(TINY, num_layers=2)


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def config(request: pytest.FixtureRequest) -> RolloutConfig:
    return request.param


@pytest.fixture(scope="module")
def network() -> WanTransformer:
    return random_transformer(TWO_LAYERS)


def recorded(
    network: WanTransformer,
    config: RolloutConfig,
    seeds: tuple[int, ...] = SEEDS,
    *,
    prefix: int = 4,
    chunks: int = 3,
    all_steps: bool = False,
) -> RecordedWindow:
    """A window from mid-video."""
    start, made = beginning(config, batch=len(seeds)), videos(*seeds)
    return record(network, roll(network, start, made, chunks=prefix), made, chunks=chunks, all_steps=all_steps)


def window_shape(recording: RecordedWindow) -> tuple[int, ...]:
    return recording.after.latents[:, :, recording.before.num_frames :].shape


# What training rolls is what inference makes


@pytest.mark.parametrize("prefix", [0, 1, 4])
def test_a_recorded_window_is_the_video_that_inference_makes_of_the_seed(
    network: WanTransformer, config: RolloutConfig, prefix: int
) -> None:
    recording = recorded(network, config, (SEEDS[0],), prefix=prefix)
    expected = inferred(network, config, seed=SEEDS[0], chunks=prefix + 3)
    assert torch.equal(recording.after.latents, expected)
    assert recording.num_frames == 3 * config.chunk == expected.shape[2] - recording.before.num_frames


def test_a_video_that_goes_on_window_by_window_is_still_that_of_inference(
    network: WanTransformer, config: RolloutConfig
) -> None:
    state, made = beginning(config), videos(SEEDS[0])
    for chunks in (3, 2, 2, 3):
        state = record(network, state, made, chunks=chunks, keep_cache=True).after
    assert torch.equal(state.latents, inferred(network, config, seed=SEEDS[0], chunks=10))
    assert state.cache.num_frames == state.num_frames, "nothing is left to be replayed"


def test_the_videos_of_a_batch_are_the_videos_of_their_seeds(network: WanTransformer, config: RolloutConfig) -> None:
    together = recorded(network, config).after.latents
    for video, seed in zip(together, SEEDS, strict=True):
        alone = recorded(network, config, (seed,)).after.latents
        torch.testing.assert_close(video[None], alone, atol=1e-5, rtol=1e-5)


def test_recording_and_backpropagation_leave_the_state_before_as_it_was(
    network: WanTransformer, config: RolloutConfig
) -> None:
    recording = recorded(network, config)
    cache = recording.before.cache
    keys = [key.clone() for key in cache.keys]
    backpropagate(network, recording, drawn(*window_shape(recording)))
    assert all(torch.equal(key, kept) for key, kept in zip(cache.keys, keys, strict=True))
    assert recording.before.num_frames == cache.num_frames == 4 * config.chunk


@pytest.mark.parametrize("all_steps", [False, True])
def test_each_step_gives_its_chunk(network: WanTransformer, config: RolloutConfig, all_steps: bool) -> None:
    """What was noted is what made the chunk: run again without gradients, it makes the same."""
    recording = recorded(network, config, all_steps=all_steps)
    rollout = recording.videos.rollout(network, recording.before)
    for step, chunk in zip(recording.steps, recording.after.chunks[4:], strict=True):
        assert step.timestep == config.timesteps[-1]
        with torch.no_grad():
            again = estimate(network, step, recording.videos, rollout.past())
        torch.testing.assert_close(again, chunk.latents, atol=1e-5, rtol=1e-5)
        rollout.append(chunk.latents)


# Steps left out at the end


@pytest.mark.parametrize("dropped", [1, 2])
def test_dropped_steps_shorten_the_window_and_not_what_comes_before(network: WanTransformer, dropped: int) -> None:
    config = RolloutConfig(chunk=2, window=6, steps=(1000, 750, 500), first_chunk_steps=(1000, 800, 600, 400))
    made = videos(SEEDS[0])
    before = roll(network, beginning(config), made, chunks=3)
    recording = record(network, before, made, chunks=2, dropped_steps=dropped)
    assert torch.equal(recording.before.latents, inferred(network, config, seed=SEEDS[0], chunks=3))
    short = replace(config, steps=config.steps[:-dropped])
    rollout = Rollout(network, replace(before, config=short, seed=SEEDS[0], cache=None), made.text)
    with torch.inference_mode():
        made_short = torch.cat([chunk.latents for chunk in rollout.run(2)], dim=2)
    assert torch.equal(recording.after.latents[:, :, before.num_frames :], made_short)
    assert [step.timestep for step in recording.steps] == [config.timesteps[-1 - dropped]] * 2
    assert recording.after.config == config, "videos go on with all steps"


@pytest.mark.parametrize(("first", "dropped", "at"), [((1000, 800, 600), 1, 800), ((1000,), 2, 1000), ((), 1, 500)])
def test_the_first_chunk_loses_as_many_of_its_own_steps(
    network: WanTransformer, first: tuple[float, ...], dropped: int, at: float
) -> None:
    """But never all of them, where it has fewer than the others."""
    config = RolloutConfig(chunk=2, window=6, steps=(1000, 500, 250), first_chunk_steps=first, shift=1.0)
    recording = record(network, beginning(config), videos(SEEDS[0]), chunks=1, dropped_steps=dropped)
    assert recording.steps[0].timestep == at


# The gradient


def gradients(network: nn.Module) -> dict[str, Tensor]:
    return {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}


@contextmanager
def fresh_gradients(network: nn.Module) -> Iterator[None]:
    network.zero_grad(set_to_none=True)
    yield
    network.zero_grad(set_to_none=True)


def caches_before_chunks(network: WanTransformer, recording: RecordedWindow) -> list[RollingKVCache]:
    """What each chunk is denoised against, a cache of its own for each, made by today's weights."""
    caches = []
    for chunk in range(len(recording.steps)):
        rollout = recording.videos.rollout(network, recording.before)
        for made in recording.after.chunks[4 : 4 + chunk]:
            rollout.append(made.latents)
        with torch.no_grad():
            caches.append(rollout.past())
    return caches


def objective(
    network: WanTransformer, recording: RecordedWindow, gradient: Tensor, pasts: list[RollingKVCache]
) -> Tensor:
    """<gradient, x0>, in which only the steps depend on the weights, not the past nor what was noised."""
    pieces = gradient.split([chunk.num_frames for chunk in recording.after.chunks[4:]], dim=2)
    each = zip(recording.steps, pieces, pasts, strict=True)
    return sum((piece * estimate(network, step, recording.videos, past)).sum() for step, piece, past in each)


def test_the_gradient_is_that_of_finite_differences() -> None:
    """In float64, along random directions in which every weight counts: each goes uphill for itself."""
    network = random_transformer(TWO_LAYERS)
    recording = recorded(network, CONFIGS["sink"])
    network = network.double()
    recording = replace(recording, videos=replace(recording.videos, dtype=torch.float64))
    gradient = drawn(*window_shape(recording)).double()
    pasts = caches_before_chunks(network, recording)
    backpropagate(network, recording, gradient)
    weights = list(network.parameters())
    for seed in range(3):
        torch.manual_seed(seed)
        direction = [torch.rand_like(weight) * weight.grad.sign() for weight in weights]
        expected = sum((weight.grad * along).sum() for weight, along in zip(weights, direction, strict=True)).item()
        sides = []
        for distance in (1e-5, -1e-5):
            with torch.no_grad():
                torch._foreach_add_(weights, direction, alpha=distance)
                sides.append(objective(network, recording, gradient, pasts).item())
                torch._foreach_add_(weights, direction, alpha=-distance)
        assert (sides[0] - sides[1]) / 2e-5 == pytest.approx(expected, rel=1e-3)


def test_the_gradient_is_the_sum_over_chunks_and_reaches_every_weight(
    network: WanTransformer, config: RolloutConfig
) -> None:
    recording = recorded(network, config)
    gradient = drawn(*window_shape(recording))
    with fresh_gradients(network):
        objective(network, recording, gradient, caches_before_chunks(network, recording)).backward()
        expected = gradients(network)
    with fresh_gradients(network):
        backpropagate(network, recording, gradient)
        found = gradients(network)
    assert found.keys() == dict(network.named_parameters()).keys(), "the text's layers and the head included"
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-4 * value.abs().max().item(), rtol=1e-4, msg=name)
        assert value.any(), name


def denoised(
    network: WanTransformer, steps: list[RecordedStep], noises: list[Tensor], videos: RolloutInputs, past: Any
) -> list[Tensor]:
    """x0 after each of a chunk's steps, every one from the one before: x_t = (1 - sigma) x0 + sigma noise."""
    estimates: list[Tensor] = []
    for step, noise in zip(steps, noises, strict=True):
        sigma = step.timestep / 1000
        x = (1 - sigma) * estimates[-1] + sigma * noise if estimates else noise
        timesteps = torch.full((x.shape[0], x.shape[2]), step.timestep)
        estimates.append(x - sigma * network(x, timesteps, videos.text.to(x.dtype), cache=past))
    return estimates


def test_the_gradient_of_all_steps_is_that_of_the_whole_denoising(config: RolloutConfig) -> None:
    """In float64: every step of a chunk has its part in it, the past and the noise have none."""
    network = random_transformer(TWO_LAYERS)
    recording = recorded(network, config, all_steps=True)
    network = network.double()
    recording = replace(recording, videos=replace(recording.videos, dtype=torch.float64))
    gradient = drawn(*window_shape(recording)).double()
    pieces = gradient.split([chunk.num_frames for chunk in recording.after.chunks[4:]], dim=2)
    total = torch.zeros((), dtype=torch.float64)
    for step, piece, past in zip(recording.steps, pieces, caches_before_chunks(network, recording), strict=True):
        steps, noises = chain(step), []
        assert [each.timestep for each in steps] == list(config.timesteps)
        with torch.no_grad():
            for index, each in enumerate(steps):
                known = denoised(network, steps[:index], noises, recording.videos, past)
                sigma, x = each.timestep / 1000, each.noised.double()
                noises.append((x - (1 - sigma) * known[-1]) / sigma if known else x)
        total = total + (piece * denoised(network, steps, noises, recording.videos, past)[-1]).sum()
    total.backward()
    expected = gradients(network)
    with fresh_gradients(network):
        backpropagate(network, recording, gradient)
        found = gradients(network)
    last_only = replace(recording, steps=tuple(replace(step, before=None) for step in recording.steps))
    with fresh_gradients(network):
        backpropagate(network, last_only, gradient)
        of_the_last = gradients(network)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-4 * value.abs().max().item(), rtol=1e-4, msg=name)
    moved = [(found[name] - value).norm() / found[name].norm() for name, value in of_the_last.items()]
    assert max(moved) > 0.01, "the steps before the last have a part in it"


def test_the_gradient_adds_to_what_is_there(network: WanTransformer) -> None:
    """Parts of a batch follow one another before the weights move."""
    recording = recorded(network, CONFIGS["rolls over"])
    gradient = drawn(*window_shape(recording))
    with fresh_gradients(network):
        backpropagate(network, recording, gradient)
        once = {name: value.clone() for name, value in gradients(network).items()}
        backpropagate(network, recording, gradient)
        for name, value in gradients(network).items():
            torch.testing.assert_close(value, 2 * once[name])


class Watched:
    """A student of which it is noted how often it is called, with and without gradients, and on what cache."""

    def __init__(self, network: WanTransformer) -> None:
        self._network = network
        self.config, self.embed_text = network.config, network.embed_text
        self.calls: list[bool] = []
        self.caches: list[RollingKVCache] = []

    def __call__(self, x: Tensor, timestep: Tensor, text: Tensor, *, cache: KeyValueCache) -> Tensor:
        self.calls.append(torch.is_grad_enabled())
        self.caches.append(cache)
        return self._network(x, timestep, text, cache=cache)


@pytest.mark.parametrize("silent", [(), (0,), (1,), (0, 2), (0, 1, 2)])
def test_chunks_without_gradient_are_passed_over(network: WanTransformer, silent: tuple[int, ...]) -> None:
    recording = recorded(network, CONFIGS["rolls over"])
    gradient = drawn(*window_shape(recording))
    for chunk in silent:
        gradient[:, :, 2 * chunk : 2 * chunk + 2] = 0
    watched = Watched(network)
    with fresh_gradients(network):
        backpropagate(watched, recording, gradient)
        found = gradients(network)
    assert sum(watched.calls) == 3 - len(silent)
    with fresh_gradients(network):
        if len(silent) < 3:
            objective(network, recording, gradient, caches_before_chunks(network, recording)).backward()
        expected = gradients(network)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-4 * value.abs().max().item(), rtol=1e-4, msg=name)


def test_in_half_precision_every_weight_learns_after_a_chunk_that_was_passed_over(network: WanTransformer) -> None:
    """Older PyTorch keeps casts of weights; those made without gradients must not serve the steps with them."""
    recording = recorded(network, CONFIGS["rolls over"])
    gradient = drawn(*window_shape(recording))
    gradient[:, :, :2] = 0
    with fresh_gradients(network):
        backpropagate(network, recording, gradient, autocast=lambda: torch.autocast("cpu", dtype=torch.bfloat16))
        found = gradients(network)
    with fresh_gradients(network):
        backpropagate(network, recording, gradient)
        expected = gradients(network)
    assert found.keys() == expected.keys() == dict(network.named_parameters()).keys()
    for name, value in expected.items():
        assert torch.cosine_similarity(found[name].flatten(), value.flatten(), dim=0) > 0.95, name


def test_the_cache_never_has_a_gradient(network: WanTransformer, config: RolloutConfig) -> None:
    watched = Watched(network)
    recording = recorded(watched, config)
    backpropagate(watched, recording, drawn(*window_shape(recording)))
    network.zero_grad(set_to_none=True)
    for cache in watched.caches:
        for layer in range(TWO_LAYERS.num_layers):
            assert not any(part.requires_grad for part in cache.contents(layer))
    kept = (*recording.before.cache.keys, *recording.before.cache.values, recording.after.latents)
    assert not any(tensor.requires_grad for tensor in kept)
    assert not any(step.noised.requires_grad for step in recording.steps)


def test_a_chunk_feels_the_one_before_and_gives_it_no_gradient(network: WanTransformer) -> None:
    """What a chunk sees is used, and its gradient is for its own step alone."""
    recording = recorded(network, CONFIGS["rolls over"])
    step, videos = recording.steps[1], recording.videos
    before = recording.after.chunks[4].latents.clone().requires_grad_()
    outcomes = []
    for latents in (before, before + 1):
        rollout = videos.rollout(network, recording.before)
        rollout.append(latents)
        outcomes.append(estimate(network, step, videos, rollout.past()))
    assert (outcomes[0] - outcomes[1]).abs().max() > 1e-2
    outcomes[0].sum().backward()
    assert before.grad is None
    network.zero_grad(set_to_none=True)


def test_one_chunks_graph_lives_at_a_time(network: WanTransformer) -> None:
    """What autograd saves in one chunk's pass is gone before the next chunk's begins."""
    recording = recorded(network, CONFIGS["rolls over"])
    gradient = drawn(*window_shape(recording))
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    saved: list[list[weakref.ref[torch.UntypedStorage]]] = []
    still_alive: list[int] = []

    class Graphs(Watched):
        def __call__(self, *arguments: Tensor, cache: KeyValueCache) -> Tensor:
            if torch.is_grad_enabled():
                gc.collect()
                still_alive.append(sum(box() is not None for chunk in saved for box in chunk))
                saved.append([])
            return super().__call__(*arguments, cache=cache)

    class Box:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

    def pack(tensor: Tensor) -> Box:
        box = Box(tensor)
        if saved and tensor.untyped_storage().data_ptr() not in weights:
            saved[-1].append(weakref.ref(box))
        return box

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
        backpropagate(Graphs(network), recording, gradient)
    network.zero_grad(set_to_none=True)
    assert still_alive == [0, 0, 0]
    assert all(len(chunk) > 20 for chunk in saved), "there was something to forget"
