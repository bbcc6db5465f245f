"""Where windows come from: what is drawn, what processes share, and videos that go on across steps and stops."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.rollout import Rollout
from sfpp_core.wan.transformer import WanTransformer
from tests.helpers.models import LATENT_HEIGHT, LATENT_WIDTH, TINY, random_text, random_transformer
from tests.helpers.self_forcing_videos import CPU, beginning
from training.data.prompt_embeds import Conditioning, TextsInMemory
from training.engine.checkpoint import from_all, of_all
from training.engine.micro_batches import apart, together
from training.self_forcing.rollouts import Restarting, Rolled, RolloutPlan, Streaming, shared_frames, windows_in_video
from training.self_forcing.windows import WindowConfig

CHUNK = 2
CONFIG = RolloutConfig(chunk=CHUNK, window=4, steps=(1000.0, 500.0))
WINDOW = WindowConfig(frames=6, rollout_frames=14, masked_frames=1)
PROMPTS = 5


@pytest.fixture(scope="module")
def network() -> WanTransformer:
    return random_transformer(replace(TINY, num_layers=1))


def conditioning() -> Conditioning:
    texts = [random_text(seed=seed)[0] for seed in range(PROMPTS)]
    names = [f"prompt {number}" for number in range(PROMPTS)]
    return Conditioning(TextsInMemory(prompts=names, embeddings=texts, negative=texts[0], length=len(texts[0])))


def stage(samples: range = range(2), *, window: WindowConfig = WINDOW, config: RolloutConfig = CONFIG) -> RolloutPlan:
    return RolloutPlan(
        conditioning=conditioning(),
        config=config,
        window=window,
        seed=7,
        samples=samples,
        size=(LATENT_HEIGHT, LATENT_WIDTH),
        channels=TINY.in_channels,
        device=CPU,
        dtype=torch.float32,
    )


def latents(rolled: Rolled) -> Tensor:
    return rolled.recording.after.latents


def starts(source: Restarting | Streaming, network: WanTransformer, updates: range) -> list[int]:
    return [source.roll(network, update, "student", dropped_steps=0).window.start for update in updates]


# Restarting


def test_windows_of_new_videos_begin_anywhere_and_end_the_rollout(network: WanTransformer) -> None:
    source = Restarting(stage(range(1)))
    found = Counter()
    for update in range(30):
        rolled = source.roll(network, update, "student", dropped_steps=0)
        recording = rolled.recording
        assert recording.before.num_frames == rolled.window.start and recording.after.num_frames == rolled.window.end
        assert rolled.num_old == 0
        found[rolled.window.start] += 1
    assert sorted(found) == [0, 2, 4, 6, 8]
    assert sum((count - 6) ** 2 / 6 for count in found.values()) < 18.5, "chi-square, 4 degrees, p = 0.001"


def test_names_and_updates_tell_windows_apart(network: WanTransformer) -> None:
    source = Restarting(stage(range(1), window=replace(WINDOW, rollout_frames=6)))
    calls = [(0, "student"), (1, "student"), (0, "critic", 0), (0, "critic", 1)]
    videos = [latents(source.roll(network, *call, dropped_steps=0)) for call in calls]
    for index, video in enumerate(videos):
        assert torch.equal(latents(source.roll(network, *calls[index], dropped_steps=0)), video)
        assert not any(torch.equal(video, other) for other in videos[:index])


def test_rollouts_grow_with_the_curriculum(network: WanTransformer) -> None:
    source = Restarting(stage(range(1), window=replace(WINDOW, ramp_updates=16)))
    assert starts(source, network, range(4)) == [0] * 4
    assert max(starts(source, network, range(16, 30))) == 8


# What a video is does not depend on who makes it


@pytest.mark.parametrize("kind", [Restarting, Streaming])
def test_processes_make_together_what_one_makes(network: WanTransformer, kind: type[Restarting | Streaming]) -> None:
    sources = [kind(stage(samples)) for samples in (range(4), range(0, 2), range(2, 4))]
    for update in range(5):
        whole, first, second = (source.roll(network, update, "student", dropped_steps=0) for source in sources)
        assert whole.window == first.window == second.window
        both = torch.cat([latents(first), latents(second)])
        torch.testing.assert_close(both, latents(whole), atol=1e-5, rtol=1e-5)
        texts = torch.cat([rolled.recording.videos.text for rolled in (first, second)])
        assert torch.equal(texts, whole.recording.videos.text)


def test_a_video_is_the_one_that_inference_makes_of_its_prompt_and_seed(network: WanTransformer) -> None:
    rolled = Restarting(stage(range(3, 4))).roll(network, 2, "student", dropped_steps=0)
    videos = rolled.recording.videos
    (seed,) = videos.noise.seeds
    rollout = Rollout(network, beginning(CONFIG, seed=seed), videos.text)
    with torch.inference_mode():
        list(rollout.run(rolled.window.end // CHUNK))
    assert torch.equal(latents(rolled), rollout.state.latents)


def test_prompts_and_seeds_are_drawn_for_every_video() -> None:
    videos = [stage(range(8)).videos("film", number) for number in range(12)]
    seeds = [seed for batch in videos for seed in batch.noise.seeds]
    assert len(set(seeds)) == len(seeds)
    prompts = torch.cat([batch.text for batch in videos]).unique(dim=0)
    assert len(prompts) == PROMPTS
    assert torch.equal(stage(range(8)).videos("film", 3).text, videos[3].text)


# Videos that go on


def test_videos_that_go_on_train_every_chunk_once_and_begin_anew_at_their_full_length(network: WanTransformer) -> None:
    source = Streaming(stage())
    found, trained = [], []
    for update in range(6):
        rolled = source.roll(network, update, "student", dropped_steps=0)
        found.append((rolled.window.start, rolled.num_old))
        trained += range(rolled.window.start + rolled.num_old, rolled.window.end)
    assert found == [(0, 0), (4, 2), (8, 2)] * 2
    assert trained == [*range(14)] * 2
    assert windows_in_video(WINDOW, CHUNK) == 3


@pytest.mark.parametrize(("masked", "shared"), [(1, 2), (2, 2), (3, 4), (4, 4)])
def test_windows_share_what_is_made_anew_in_whole_chunks(network: WanTransformer, masked: int, shared: int) -> None:
    window = replace(WINDOW, masked_frames=masked)
    assert shared_frames(window, CHUNK) == shared
    source = Streaming(stage(range(1), window=window))
    assert starts(source, network, range(3)) == [0, 6 - shared, 12 - 2 * shared]


def test_a_video_goes_on_from_its_own_latents(network: WanTransformer) -> None:
    """Window by window it is the video that inference makes in one go."""
    source = Streaming(stage(range(1)))
    for update in range(3):
        rolled = source.roll(network, update, "student", dropped_steps=0)
    videos = rolled.recording.videos
    rollout = Rollout(network, beginning(CONFIG, seed=videos.noise.seeds[0]), videos.text)
    with torch.inference_mode():
        list(rollout.run(7))
    assert torch.equal(latents(rolled), rollout.state.latents)


def test_beginnings_are_judged_out_of_turn_and_the_video_under_way_waits(network: WanTransformer) -> None:
    often = Streaming(stage(range(1), window=replace(WINDOW, first_window_probability=0.5)))
    plain = Streaming(stage(range(1)))
    judged = [often.roll(network, update, "student", dropped_steps=0) for update in range(14)]
    beginnings = [rolled for rolled in judged if rolled.recording.after.cache is None]
    others = [rolled for rolled in judged if rolled.recording.after.cache is not None]
    assert len(beginnings) > 2
    assert len(others) > 2
    assert all(rolled.window.start == 0 and rolled.num_old == 0 for rolled in beginnings)
    assert len({rolled.recording.videos.noise.seeds for rolled in beginnings}) == len(beginnings)
    for update, rolled in enumerate(others):
        expected = plain.roll(network, update, "student", dropped_steps=0)
        assert rolled.window == expected.window
        assert torch.equal(latents(rolled), latents(expected))


def test_the_next_video_has_other_prompts_and_seeds(network: WanTransformer) -> None:
    source = Streaming(stage(range(4)))
    batches = [source.roll(network, update, "student", dropped_steps=0).recording.videos for update in range(4)]
    assert batches[0].noise == batches[1].noise == batches[2].noise != batches[3].noise
    assert not torch.equal(batches[2].text, batches[3].text)


@pytest.mark.parametrize("stop", range(5))
@pytest.mark.parametrize("config", [CONFIG, RolloutConfig(chunk=2, window=5, sink=1, steps=(1000.0, 500.0))])
def test_videos_go_on_after_a_stop_as_if_there_had_been_none(
    network: WanTransformer, config: RolloutConfig, stop: int
) -> None:
    going, stopped = Streaming(stage(config=config)), Streaming(stage(config=config))
    for update in range(stop):
        going.roll(network, update, "student", dropped_steps=0)
        stopped.roll(network, update, "student", dropped_steps=0)
    resumed = Streaming(stage(config=config))
    resumed.restore(from_all(of_all(stopped.state())))
    for update in range(stop, stop + 4):
        expected, found = (source.roll(network, update, "student", dropped_steps=0) for source in (going, resumed))
        assert found.window == expected.window
        assert torch.equal(latents(found), latents(expected))
        for side in ("keys", "values"):
            mine, theirs = (getattr(rolled.recording.after.cache, side) for rolled in (found, expected))
            assert all(torch.equal(one, other) for one, other in zip(mine, theirs, strict=True))


def test_videos_of_parts_go_on_in_one_and_the_reverse(network: WanTransformer) -> None:
    """A state does not say in which parts, or processes, its videos were rolled."""
    whole = Streaming(stage(range(4)))
    halves = [Streaming(stage(samples)) for samples in (range(0, 2), range(2, 4))]
    for source in (whole, *halves):
        starts(source, network, range(2))
    joined, cut = Streaming(stage(range(4))), [Streaming(stage(samples)) for samples in (range(0, 2), range(2, 4))]
    joined.restore(together([source.state() for source in halves]))
    for source, state in zip(cut, apart(whole.state(), 2), strict=True):
        source.restore(state)
    expected = latents(whole.roll(network, 2, "student", dropped_steps=0))
    found = latents(joined.roll(network, 2, "student", dropped_steps=0))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    parts = torch.cat([latents(source.roll(network, 2, "student", dropped_steps=0)) for source in cut])
    torch.testing.assert_close(parts, expected, atol=1e-5, rtol=1e-5)
