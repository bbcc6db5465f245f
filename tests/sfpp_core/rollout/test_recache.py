"""A past that is re-encoded under another text: what it is, and that the law holds with it too, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.kv_cache import RollingKVCache
from sfpp_core.rollout.kv_quantization import CACHE_FORMS, CacheForm
from sfpp_core.rollout.rollout import CallProgress, Rollout
from sfpp_core.rollout.state import HEADER, RolloutState, load_state, save_state
from sfpp_core.sealed_file import CHECKSUM, write_sealed
from tests.helpers.models import TINY, random_text, random_transformer
from tests.sfpp_core.rollout.test_law import CONFIGS, describe, empty_state

SEA, STORM = random_text(seed=1), random_text(seed=2)
CALM, ANEW, STORMY = (SEA, False), (STORM, True), (STORM, False)
Plan = Sequence[tuple[Tensor, bool]]
PLAN: Plan = (*[CALM] * 5, ANEW, *[STORMY] * 3, (SEA, True), *[CALM] * 3)


@pytest.fixture(params=CONFIGS, ids=describe)
def config(request: pytest.FixtureRequest) -> RolloutConfig:
    return request.param


@torch.inference_mode()
def follow(rollout: Rollout, plan: Plan) -> None:
    for text, recache in plan:
        rollout.set_prompt(text, recache=recache)
        list(rollout.run(1))


def extend(state: RolloutState, plan: Plan, *, keep_cache: bool = False) -> RolloutState:
    rollout = Rollout(random_transformer(), state, SEA)
    follow(rollout, plan)
    return rollout.keep_cache() if keep_cache else rollout.state


def test_extending_equals_one_go_wherever_it_is_cut(config: RolloutConfig, tmp_path: Path) -> None:
    rollout = Rollout(random_transformer(), empty_state(config), SEA)
    begun = {}
    for number, step in enumerate(PLAN, start=1):
        follow(rollout, [step])
        begun[number] = (rollout.state, rollout.keep_cache())
    for cut in (3, 5, 6, 7, 9, 10, 12):
        for state in begun[cut]:
            save_state(state, tmp_path / "video.safetensors")
            continued = extend(load_state(tmp_path / "video.safetensors"), PLAN[cut:])
            assert torch.equal(continued.latents, rollout.state.latents), f"cut after {cut} chunks"


@pytest.mark.parametrize("form", CACHE_FORMS[1:])
def test_a_past_in_eight_bits_is_encoded_anew_as_lawfully(form: CacheForm) -> None:
    start = empty_state(RolloutConfig(chunk=3, window=10, sink=2), form=form)
    whole = extend(start, PLAN).latents
    for cut in (5, 6, 10):
        rollout = Rollout(random_transformer(), start, SEA)
        follow(rollout, PLAN[:cut])
        for begun in (rollout.state, rollout.keep_cache()):
            assert torch.equal(extend(begun, PLAN[cut:]).latents, whole), f"cut after {cut} chunks"


def test_chunks_that_are_known_are_as_good_as_made(config: RolloutConfig) -> None:
    whole = extend(empty_state(config), PLAN)
    rollout = Rollout(random_transformer(), empty_state(config), SEA)
    for index, (text, recache) in enumerate(PLAN):
        if index in (2, 8):  # in the middle of each text's rule
            follow(rollout, [(text, recache)])
        else:
            rollout.set_prompt(text, recache=recache)
            rollout.append(whole.chunks[index].latents)
    assert torch.equal(rollout.state.latents, whole.latents)


@pytest.mark.parametrize("chunk", [1, 3])
def test_nothing_before_what_is_seen_is_felt_any_more(chunk: int) -> None:
    """Two videos that differ in all but the window's frames: re-encoded they go on alike, otherwise not."""
    config = RolloutConfig(chunk=chunk, window=3 * chunk)
    first, second = (extend(empty_state(config, seed=seed), [CALM] * 6) for seed in (1, 2))
    rollout = Rollout(random_transformer(), empty_state(config, seed=1), SEA)
    for own, other in zip(first.chunks, second.chunks, strict=True):
        is_seen = len(rollout.state.chunks) >= 4
        rollout.append(own.latents if is_seen else other.latents)
    for plan, alike in (([ANEW, STORMY], True), ([STORMY], False)):
        one, another = (extend(state, plan).chunks[6:] for state in (first, rollout.state))
        equal = [torch.equal(a.latents, b.latents) for a, b in zip(one, another, strict=True)]
        assert equal == [alike] * len(plan)


def test_the_cache_holds_what_is_seen_under_the_new_text() -> None:
    """Against a video of which no more was ever there than the sink and what is seen."""
    config = RolloutConfig(chunk=3, window=12, sink=3)
    video = extend(empty_state(config), [CALM] * 7)
    rollout = Rollout(random_transformer(), video, SEA)
    rollout.set_prompt(STORM, recache=True)
    with torch.inference_mode():
        cache = rollout.past()
        assert sorted(cache.visible_frames()) == [0, 1, 2, *range(15, 21)]
        expected = _encoded(
            config, [(0, video.chunks[0].latents), *((15 + 3 * i, video.chunks[5 + i].latents) for i in (0, 1))]
        )
    for layer in range(TINY.num_layers):
        for held, reference in zip(cache.contents(layer), expected[layer], strict=True):
            assert torch.equal(held, reference)


def _encoded(config: RolloutConfig, pieces: list[tuple[int, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Keys and values by layer of chunks at their own positions, each of which saw those before it in the list."""
    network = random_transformer()

    class Shown:
        """A cache that holds all that it is shown."""

        def __init__(self) -> None:
            self.start = 0
            self.layers: list[tuple[Tensor, Tensor]] = []

        def positions(self, num_frames: int) -> tuple[int, ...]:
            return tuple(range(self.start, self.start + num_frames))

        def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
            if layer == len(self.layers):
                self.layers.append((keys, values))
            else:
                past = self.layers[layer]
                self.layers[layer] = (torch.cat([past[0], keys], 1), torch.cat([past[1], values], 1))
            return self.layers[layer]

    shown = Shown()
    for start, latents in pieces:
        shown.start = start
        network(latents, torch.zeros(1, latents.shape[2]), STORM, cache=shown)
    return shown.layers


def test_an_interrupt_while_the_past_is_encoded_anew_loses_nothing() -> None:
    config = RolloutConfig(chunk=3, window=12, sink=3)
    whole = extend(empty_state(config), PLAN).latents
    for stop_at in (1, 2, 3, 4):
        calls: list[CallProgress] = []

        def interrupt(progress: CallProgress, calls: list[CallProgress] = calls, stop_at: int = stop_at) -> None:
            calls.append(progress)
            if progress.chunk == 5 and progress.call == stop_at and len(calls) < 200:
                calls.extend([progress] * 200)
                raise KeyboardInterrupt

        rollout = Rollout(random_transformer(), empty_state(config), SEA, on_call=interrupt)
        with pytest.raises(KeyboardInterrupt):
            follow(rollout, PLAN)
        assert len(rollout.state.chunks) == 5
        follow(rollout, PLAN[5:])
        assert torch.equal(rollout.state.latents, whole), f"interrupted at call {stop_at}"


def test_a_change_of_mind_before_the_chunk_is_made_counts() -> None:
    config = RolloutConfig(chunk=3, window=9)
    whole = extend(empty_state(config), [*[CALM] * 4, ANEW]).latents
    rollout = Rollout(random_transformer(), extend(empty_state(config), [CALM] * 4), SEA)
    with torch.inference_mode():
        rollout.set_prompt(random_text(seed=3), recache=True)
        rollout.past()
        assert rollout.keep_cache().cache is None, "a cache of a future that may not come must not be kept"
    follow(rollout, [ANEW])
    assert torch.equal(rollout.state.latents, whole)


def test_an_empty_video_has_no_past_to_encode() -> None:
    config = RolloutConfig(chunk=3, window=9)
    begun = extend(empty_state(config), [ANEW])
    assert not begun.chunks[0].recached
    assert torch.equal(begun.latents, extend(empty_state(config), [STORMY]).latents)


def test_states_of_before_this_are_still_read(tmp_path: Path) -> None:
    path = tmp_path / "video.safetensors"
    save_state(extend(empty_state(RolloutConfig(window=6)), [CALM] * 2), path)
    with safe_open(path, "pt") as file:
        description = json.loads(file.metadata()[HEADER])
    older = {name: value for name, value in description.items() if name != CHECKSUM} | {"version": 1}
    older["chunks"] = [{"num_frames": chunk["num_frames"], "text": chunk["text"]} for chunk in description["chunks"]]
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(tensors, path, {HEADER: json.dumps(older)})
    assert torch.equal(load_state(path).latents, extend(empty_state(RolloutConfig(window=6)), [CALM] * 2).latents)
    write_sealed(path, tensors, HEADER, description | {"version": 4})
    with pytest.raises(ValueError, match="its format is version 4, this program reads versions 1 and 2 and 3"):
        load_state(path)


def test_a_cache_that_starts_late_names_what_it_holds() -> None:
    config = RolloutConfig(chunk=3, window=10, sink=2)
    cache = RollingKVCache(TINY, config, batch=1, tokens_per_frame=1, device="cpu", dtype=torch.float32)

    def show(num_frames: int) -> None:
        numbers = torch.tensor(cache.positions(num_frames), dtype=torch.float32)[None, :, None, None]
        with torch.no_grad():
            for layer in range(TINY.num_layers):
                cache.extend(layer, *[numbers.expand(1, -1, TINY.num_heads, TINY.head_dim)] * 2)
        cache.commit(num_frames)

    show(3)
    cache.start_at(30)
    for end in range(33, 60, 3):
        show(3)
        expected = [0, 1, *range(max(30, end - 8), end)]
        assert sorted(cache.visible_frames()) == expected
        assert cache.contents(0)[0][0, :, 0, 0].tolist() == list(cache.visible_frames())
