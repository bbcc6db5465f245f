"""The law, bit for bit: rollout(2n) == rollout(n) then extend(n) == rollout(n), saved, loaded elsewhere, extended."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.kv_cache import AllocateMemory
from sfpp_core.rollout.kv_quantization import CACHE_FORMS, CacheForm
from sfpp_core.rollout.rollout import CallProgress, Rollout
from sfpp_core.rollout.state import RolloutState, StateFileError, load_state, save_state
from sfpp_core.wan.transformer import KeyValueCache, TextContext
from tests.helpers.models import LATENT_HEIGHT, LATENT_WIDTH, TINY, random_text, random_transformer

CONFIGS = [
    RolloutConfig(chunk=3, window=9),
    RolloutConfig(chunk=3, window=7),
    RolloutConfig(chunk=3, window=10, sink=2),
    RolloutConfig(chunk=3, window=9, sink=3, context_noise=50.0, steps=(1000.0, 500.0)),
    RolloutConfig(chunk=1, window=4, steps=(1000.0, 600.0), first_chunk_steps=(1000.0, 700.0, 400.0)),
    RolloutConfig(chunk=1, window=5, sink=1),
    RolloutConfig(chunk=1, window=3, sink=2),
    RolloutConfig(chunk=3, window=8, independent_first=True),
]


def describe(config: RolloutConfig) -> str:
    return f"chunk{config.chunk}-window{config.window}-sink{config.sink}-steps{len(config.steps)}"


def empty_state(config: RolloutConfig, *, seed: int = 11, batch: int = 1, form: CacheForm = "computed") -> RolloutState:
    shape = (batch, TINY.in_channels, LATENT_HEIGHT, LATENT_WIDTH)
    return RolloutState(config=config, seed=seed, model_id="random", shape=shape, cache_form=form)


@torch.inference_mode()
def extend(
    state: RolloutState,
    num_chunks: int,
    text: Tensor | None = None,
    *,
    keep_cache: bool = False,
    cache_memory: AllocateMemory | None = None,
) -> RolloutState:
    text = random_text() if text is None else text
    rollout = Rollout(random_transformer(), state, text, cache_memory=cache_memory)
    for _ in rollout.run(num_chunks):
        pass
    return rollout.keep_cache() if keep_cache else rollout.state


@pytest.fixture(params=CONFIGS, ids=describe)
def config(request: pytest.FixtureRequest) -> RolloutConfig:
    return request.param


IN_EVERY_FORM = pytest.mark.parametrize(
    ("config", "form"),
    # In eight bits every other configuration: among them are chunks of 1 and of 3, with a sink and without.
    [(config, CACHE_FORMS[0]) for config in CONFIGS]
    + [(config, form) for form in CACHE_FORMS[1:] for config in CONFIGS[1::2]],
    ids=lambda value: describe(value) if isinstance(value, RolloutConfig) else value,
)


@cache
def in_one_go(config: RolloutConfig, form: CacheForm) -> dict[int, RolloutState]:
    """States of one rollout by the number of chunks that it has made, the cache in each."""
    states, rollout = {}, Rollout(random_transformer(), empty_state(config, form=form), random_text())
    with torch.inference_mode():
        for number, _ in enumerate(rollout.run(12), start=1):
            states[number] = rollout.keep_cache()
    return states


@IN_EVERY_FORM
def test_extending_equals_one_go(config: RolloutConfig, form: CacheForm) -> None:
    states = in_one_go(config, form)
    half = replace(states[6], cache=None)
    assert torch.equal(extend(half, 6).latents, states[12].latents)
    assert torch.equal(extend(extend(half, 1), 5).latents, states[12].latents)


@IN_EVERY_FORM
def test_where_the_past_rests_changes_no_bit(config: RolloutConfig, form: CacheForm) -> None:
    """Whole videos, and every mixture: begun here and continued there, with a snapshot and without."""
    start, here, whole = empty_state(config, form=form), in_one_go(config, form)[4], in_one_go(config, form)[8].latents
    assert torch.equal(extend(start, 8, cache_memory=torch.zeros).latents, whole)
    there = extend(start, 4, keep_cache=True, cache_memory=torch.zeros)
    assert torch.equal(extend(there, 4).latents, whole)
    assert torch.equal(extend(here, 4, cache_memory=torch.zeros).latents, whole)
    assert torch.equal(extend(replace(here, cache=None), 4, cache_memory=torch.zeros).latents, whole)


def test_the_form_of_the_past_decides_the_video() -> None:
    """Close to the video as computed, and each its own; only what is still seen of a past can make a difference."""
    config = RolloutConfig(chunk=3, window=9)
    videos = {form: extend(empty_state(config, form=form), 4).latents for form in CACHE_FORMS}
    for form in ("fp8", "int8"):
        assert torch.equal(videos[form][:, :, :3], videos["computed"][:, :, :3])
        difference = videos[form][:, :, 3:] - videos["computed"][:, :, 3:]
        assert 0 < difference.abs().max() and difference.norm() < 0.2 * videos["computed"].norm(), form


def test_a_video_may_change_its_form_on_the_way() -> None:
    """From there on it is as lawful as any other."""
    begun = extend(empty_state(RolloutConfig(chunk=3, window=9)), 4, keep_cache=True).with_cache_form("int8")
    whole = extend(begun, 6).latents
    assert torch.equal(extend(extend(begun, 2, keep_cache=True), 4).latents, whole)
    assert torch.equal(extend(extend(begun, 5), 1).latents, whole)
    with pytest.raises(ValueError, match="form is 'int4'; it is one of computed, fp8, int8"):
        begun.with_cache_form("int4")


@IN_EVERY_FORM
def test_snapshot_of_the_cache_equals_replay(config: RolloutConfig, form: CacheForm) -> None:
    half, whole = in_one_go(config, form)[4], in_one_go(config, form)[8].latents
    assert half.cache is not None
    assert torch.equal(extend(half, 4).latents, whole)
    assert torch.equal(extend(half, 4).latents, whole), "extending must leave the snapshot as it was"


def test_a_new_process_continues_the_same_videos(tmp_path: Path) -> None:
    videos = {f"{index}": (config, "computed") for index, config in enumerate(CONFIGS)}
    videos |= {form: (CONFIGS[2], form) for form in ("fp8", "int8")}
    for name, (config, form) in videos.items():
        state = extend(empty_state(config, form=form), 3, keep_cache=form != "computed")
        save_state(state, tmp_path / f"{name}.safetensors")
    script = (
        "import sys; from pathlib import Path; from tests.sfpp_core.rollout.test_law import continue_files; "
        "continue_files(Path(sys.argv[1]), 3)"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], check=True, cwd=Path(__file__).parents[3], timeout=120
    )
    for name, (config, form) in videos.items():
        whole = extend(empty_state(config, form=form), 6).latents
        assert torch.equal(load_state(tmp_path / f"{name}.safetensors").latents, whole), (config, form)


def continue_files(folder: Path, num_chunks: int) -> None:
    """What the other process does."""
    for path in folder.iterdir():
        save_state(extend(load_state(path), num_chunks), path)


def test_long_videos_replay_only_what_can_be_felt(config: RolloutConfig) -> None:
    """With 3 layers a video far longer than three windows is continued by a short replay, to the same bits."""
    long = extend(empty_state(config), 60 // config.chunk)
    calls: list[CallProgress] = []
    rollout = Rollout(random_transformer(), long, random_text(), on_call=calls.append)
    with torch.inference_mode():
        list(rollout.run(2))
    replayed = sum(call.x0 is None for call in calls)
    felt = TINY.num_layers * (config.window - config.sink - 1) + config.sink
    assert replayed - 1 <= felt // config.chunk + 2 < len(long.chunks)
    of_last = [call for call in calls if call.chunk == calls[-1].chunk]
    assert calls[-1].call == calls[-1].num_calls == len(of_last)
    assert torch.equal(rollout.state.latents, extend(empty_state(config), 60 // config.chunk + 2).latents)


def test_every_chunk_stands_at_its_own_frame(config: RolloutConfig) -> None:
    """Also where no past but the sink is visible, so that chunks after it never have to enter the cache."""
    network, starts = random_transformer(), []

    class Watched:
        config = network.config
        embed_text = staticmethod(network.embed_text)

        def __call__(self, x: Tensor, timestep: Tensor, text: TextContext, *, cache: KeyValueCache) -> Tensor:
            starts.append(cache.positions(x.shape[2])[0])
            return network(x, timestep, text, cache=cache)

    reports: list[CallProgress] = []
    rollout = Rollout(Watched(), empty_state(config), random_text(), on_call=reports.append)
    with torch.inference_mode():
        list(rollout.run(6))
    lengths = [chunk.num_frames for chunk in rollout.state.chunks]
    denoised = dict.fromkeys(start for start, call in zip(starts, reports, strict=True) if call.x0 is not None)
    assert list(denoised) == [sum(lengths[:index]) for index in range(6)]


def test_a_second_text_rules_only_what_follows(config: RolloutConfig) -> None:
    sea, storm = random_text(seed=1), random_text(seed=2)
    calm = extend(empty_state(config), 3, sea)
    stormy = extend(calm, 3, storm)
    start = calm.num_frames
    assert torch.equal(stormy.latents[:, :, :start], calm.latents)
    assert not torch.equal(stormy.latents[:, :, start:], extend(calm, 3, sea).latents[:, :, start:])
    assert [chunk.text for chunk in stormy.chunks] == [0, 0, 0, 1, 1, 1]
    back = extend(extend(stormy, 1, sea), 2, sea)
    assert len(back.texts) == 2
    assert torch.equal(back.latents, extend(stormy, 3, sea).latents)


def test_branches_share_their_beginning_and_nothing_else(config: RolloutConfig) -> None:
    trunk = extend(empty_state(config), 3)
    before = trunk.latents.clone()
    first, second = extend(trunk, 2, random_text(seed=5)), extend(trunk, 2, random_text(seed=6))
    assert torch.equal(trunk.latents, before)
    assert torch.equal(extend(trunk, 2, random_text(seed=5)).latents, first.latents)
    assert not torch.equal(first.latents, second.latents)


@pytest.mark.parametrize("num_given", [1, 3, 5, 7])
def test_given_frames_are_kept_and_decide_what_follows(config: RolloutConfig, num_given: int) -> None:
    shape = (1, TINY.in_channels, num_given, LATENT_HEIGHT, LATENT_WIDTH)
    given = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    start = empty_state(config).with_given(given, random_text())
    whole = extend(start, 4)
    assert torch.equal(whole.latents[:, :, :num_given], given)
    assert torch.equal(extend(extend(start, 2), 2).latents, whole.latents)
    other = extend(empty_state(config).with_given(given.flip(3), random_text()), 4)
    assert not torch.equal(other.latents[:, :, num_given:], whole.latents[:, :, num_given:])


def test_videos_of_a_batch_do_not_mix(config: RolloutConfig) -> None:
    texts = torch.cat([random_text(seed=1), random_text(seed=2)])
    both = extend(empty_state(config, batch=2), 3, texts).latents
    swapped_second = extend(empty_state(config, batch=2), 3, torch.cat([texts[:1], texts[:1]])).latents
    assert torch.equal(both[:1], swapped_second[:1])
    assert not torch.equal(both[1:], swapped_second[1:])


def test_seeds_and_only_seeds_change_a_video(config: RolloutConfig) -> None:
    video, again, other = (extend(empty_state(config, seed=seed), 2).latents for seed in (4, 4, 5))
    assert torch.equal(video, again)
    assert not torch.equal(video, other)


@pytest.mark.parametrize("num_given", [0, 4])
def test_only_the_first_generated_chunk_takes_its_own_steps(num_given: int) -> None:
    config = RolloutConfig(chunk=3, window=9, steps=(1000.0,), first_chunk_steps=(1000.0, 750.0, 500.0))
    state = empty_state(config)
    if num_given:
        given = torch.zeros(1, TINY.in_channels, num_given, LATENT_HEIGHT, LATENT_WIDTH)
        state = state.with_given(given, random_text())
    calls: list[CallProgress] = []
    with torch.inference_mode():
        list(Rollout(random_transformer(), state, random_text(), on_call=calls.append).run(3))
    first = len(state.chunks)
    denoising = [sum(call.x0 is not None and call.chunk == first + made for call in calls) for made in range(3)]
    assert denoising == [3, 1, 1]
    assert sum(call.num_calls for call in calls if call.call == 1) == len(calls)


class Cancelled(Exception):
    """A host's interrupt."""


@pytest.mark.parametrize("stop_at", [1, 4, 5, 6, 9, 13])
def test_an_interrupt_loses_no_finished_chunk(stop_at: int) -> None:
    config = RolloutConfig(chunk=3, window=7)

    calls: list[CallProgress] = []

    def cancel(progress: CallProgress) -> None:
        calls.append(progress)
        if len(calls) == stop_at:
            raise Cancelled

    rollout = Rollout(random_transformer(), empty_state(config), random_text(), on_call=cancel)
    with torch.inference_mode():
        with pytest.raises(Cancelled):
            list(rollout.run(6))
        finished = len(rollout.state.chunks)
        assert torch.equal(extend(rollout.state, 6 - finished).latents, extend(empty_state(config), 6).latents)
        list(rollout.run(6 - finished))
    assert torch.equal(rollout.state.latents, extend(empty_state(config), 6).latents), "the same rollout may go on too"


@IN_EVERY_FORM
def test_a_saved_state_is_the_state(config: RolloutConfig, form: CacheForm, tmp_path: Path) -> None:
    state = extend(extend(empty_state(config, form=form), 2), 1, random_text(seed=8), keep_cache=True)
    save_state(state, tmp_path / "video.safetensors")
    loaded = load_state(tmp_path / "video.safetensors")
    assert (loaded.config, loaded.seed, loaded.model_id, loaded.shape) == (config, 11, "random", state.shape)
    assert torch.equal(loaded.latents, state.latents)
    assert (loaded.cache_form, loaded.cache.num_frames) == (form, state.cache.num_frames)
    for side in ("keys", "values", "key_scales", "value_scales"):
        kept, read = (getattr(cache, side) for cache in (state.cache, loaded.cache))
        assert len(read) == (0 if side.endswith("scales") and form != "int8" else TINY.num_layers)
        assert all(a.dtype == b.dtype and torch.equal(a.float(), b.float()) for a, b in zip(read, kept, strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["video.safetensors"]


def test_damaged_state_files_are_named_and_refused(tmp_path: Path) -> None:
    path = tmp_path / "video.safetensors"
    save_state(extend(empty_state(RolloutConfig(window=6)), 2), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(StateFileError, match="video.safetensors is a damaged state"):
        load_state(path)
    path.write_bytes(whole.replace(b'\\"num_texts\\": 1', b'\\"num_texts\\": 0'))
    with pytest.raises(StateFileError, match="its checksum does not fit"):
        load_state(path)
    path.write_bytes(b"\x80\x04\x95")
    with pytest.raises(StateFileError, match=r"video\.safetensors"):
        load_state(path)
    with pytest.raises(FileNotFoundError, match=r"other\.safetensors does not exist"):
        load_state(tmp_path / "other.safetensors")


def test_a_state_of_other_weights_is_refused() -> None:
    state = empty_state(RolloutConfig())
    state.require_model("random")
    with pytest.raises(ValueError, match="another model"):
        state.require_model("other")


def test_a_start_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="the start has shape"):
        empty_state(RolloutConfig()).with_given(torch.zeros(1, 16, 1, 2, 2), random_text())
    made = extend(empty_state(RolloutConfig(window=3)), 1)
    with pytest.raises(ValueError, match="already"):
        made.with_given(made.latents, random_text())


def test_a_text_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="20 wide"):
        Rollout(random_transformer(), empty_state(RolloutConfig()), torch.zeros(1, 5, 21))
    with pytest.raises(ValueError, match="give 1 or 1"):
        Rollout(random_transformer(), empty_state(RolloutConfig()), torch.zeros(3, 5, 20))


def test_the_state_shows_itself_briefly() -> None:
    state = replace(empty_state(RolloutConfig(window=3)), seed=7)
    assert repr(extend(state, 2)) == "RolloutState(6 latent frames of 4x6, batch 1, seed 7)"
