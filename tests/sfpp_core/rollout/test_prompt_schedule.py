"""Which text rules which chunk, and that a directed video made in pieces is the same video."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.prompt_schedule import PromptSchedule, ScheduledPrompt
from sfpp_core.rollout.rollout import Rollout
from sfpp_core.rollout.state import RolloutState
from tests.helpers.models import LATENT_HEIGHT, LATENT_WIDTH, TINY, random_text, random_transformer
from tests.sfpp_core.rollout.test_law import empty_state

CONFIG = RolloutConfig(chunk=3, window=9, steps=(1000.0,))
CHUNK = 0.75
"""Seconds of every chunk but the first, which has 9 / 16."""
A, B, C = (random_text(seed=seed) for seed in (1, 2, 3))


def video(rules: list[Tensor], config: RolloutConfig = CONFIG) -> RolloutState:
    """A video that was ruled by these texts, chunk by chunk; what it shows is nothing."""
    state = empty_state(config)
    for text in rules:
        state, index = state.with_text(text)
        frames = config.chunk_frames(state.num_frames)
        state = state.with_chunk(torch.zeros(1, TINY.in_channels, frames, LATENT_HEIGHT, LATENT_WIDTH), index)
    return state


def rulings(schedule: PromptSchedule, num_chunks: int) -> list[tuple[Tensor, bool]]:
    rules: list[Tensor] = []
    recached = []
    for _ in range(num_chunks):
        active = schedule.active_prompt(video(rules))
        rules.append(active.text)
        recached.append(active.recache)
    return list(zip(rules, recached, strict=True))


def names(rules: list[tuple[Tensor, bool]]) -> str:
    known = {"A": A, "B": B, "C": C}
    return "".join(next((name for name, text in known.items() if torch.equal(text, one)), "-") for one, _ in rules)


def test_texts_change_at_the_nearest_border() -> None:
    """Borders lie at 0.5625 s and every 0.75 s from there: 1.3125, 2.0625, 2.8125, ..."""
    for seconds, expected in ((1.2, "AABBBB"), (1.6, "AABBBB"), (1.7, "AAABBB"), (2.4, "AAABBB"), (2.5, "AAAABB")):
        assert (
            names(rulings(PromptSchedule([ScheduledPrompt(text=A), ScheduledPrompt(text=B, seconds=seconds)]), 6))
            == expected
        ), seconds


def test_cues_come_in_any_order() -> None:
    cues = [ScheduledPrompt(text=C, seconds=3.0), ScheduledPrompt(text=A), ScheduledPrompt(text=B, seconds=1.5)]
    assert names(rulings(PromptSchedule(cues), 7)) == "AABBCCC"


def test_a_crossfade_takes_its_time_and_ends_with_the_text_itself() -> None:
    schedule = PromptSchedule(
        [ScheduledPrompt(text=A), ScheduledPrompt(text=B, seconds=0.5625 + CHUNK, crossfade=3 * CHUNK)]
    )
    rules = [text for text, _ in rulings(schedule, 7)]
    assert names([(text, False) for text in rules]) == "AA--BBB"
    for text, share in zip(rules[2:4], (1 / 3, 2 / 3), strict=True):
        torch.testing.assert_close(text, (1 - share) * A + share * B)


def test_a_crossfade_begins_with_what_ruled_a_video_before_its_schedule() -> None:
    schedule = PromptSchedule([ScheduledPrompt(text=B, seconds=0.5625 + CHUNK, crossfade=3 * CHUNK)])
    rules = [A, A]
    for _ in range(4):
        rules.append(schedule.active_prompt(video(rules)).text)
    assert names([(text, False) for text in rules]) == "AA--BB"
    for text, share in zip(rules[2:4], (1 / 3, 2 / 3), strict=True):
        torch.testing.assert_close(text, (1 - share) * A + share * B)


def test_texts_of_other_lengths_are_mixed_as_an_encoder_pads_them() -> None:
    short = B[:, :2]
    schedule = PromptSchedule(
        [ScheduledPrompt(text=A), ScheduledPrompt(text=short, seconds=0.5625, crossfade=2 * CHUNK)]
    )
    mixed = rulings(schedule, 2)[1][0]
    assert mixed.shape == A.shape
    torch.testing.assert_close(mixed[:, 2:], A[:, 2:] / 2)


def test_the_past_is_encoded_anew_once_when_a_text_rules_alone() -> None:
    for crossfade, expected in ((0.0, [2]), (3 * CHUNK, [4])):
        cue = ScheduledPrompt(text=B, seconds=0.5625 + CHUNK, crossfade=crossfade, recache=True)
        rules = rulings(PromptSchedule([ScheduledPrompt(text=A, recache=True), cue]), 7)
        assert [index for index, (_, recached) in enumerate(rules) if recached] == expected


def test_before_the_first_cue_the_video_goes_on_as_it_was() -> None:
    schedule = PromptSchedule([ScheduledPrompt(text=B, seconds=3.0)])
    state = video([A, A])
    assert torch.equal(schedule.active_prompt(state).text, A)
    assert torch.equal(schedule.active_prompt(video([A] * 4)).text, B)
    with pytest.raises(ValueError, match=r"begins at 0:03; a video needs one at 0:00"):
        schedule.active_prompt(video([]))


@pytest.mark.parametrize("recache", [False, True])
@pytest.mark.parametrize("crossfade", [0.0, 2 * CHUNK])
def test_a_directed_video_in_pieces_is_the_same_video(recache: bool, crossfade: float) -> None:
    schedule = PromptSchedule(
        [
            ScheduledPrompt(text=A),
            ScheduledPrompt(text=B, seconds=2.0, crossfade=crossfade, recache=recache),
            ScheduledPrompt(text=C, seconds=5.0, crossfade=crossfade, recache=recache),
        ]
    )

    @torch.inference_mode()
    def extend(state: RolloutState, num_chunks: int) -> RolloutState:
        rollout = Rollout(random_transformer(), state, A)
        for _ in range(num_chunks):
            active = schedule.active_prompt(rollout.state)
            rollout.set_prompt(active.text, recache=active.recache)
            list(rollout.run(1))
        return rollout.state

    whole = extend(empty_state(CONFIG), 10)
    assert sum(chunk.recached for chunk in whole.chunks) == (2 if recache else 0)
    for cut in range(1, 10):
        assert torch.equal(extend(extend(empty_state(CONFIG), cut), 10 - cut).latents, whole.latents), cut


@pytest.mark.parametrize(
    ("cues", "complaint"),
    [
        ([], "the schedule is empty"),
        ([ScheduledPrompt(text=A), ScheduledPrompt(text=B)], "two prompts begin at 0:00"),
        ([ScheduledPrompt(text=A), ScheduledPrompt(text=B[:, :, :4], seconds=1.0)], "different text encoders"),
        (
            [
                ScheduledPrompt(text=A),
                ScheduledPrompt(text=B, seconds=1.0, crossfade=5.0),
                ScheduledPrompt(text=C, seconds=4.0),
            ],
            "0:01 takes 5 s to fade in, but the next begins at 0:04",
        ),
    ],
)
def test_schedules_that_nobody_can_follow_are_refused(cues: list[ScheduledPrompt], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        PromptSchedule(cues)


@pytest.mark.parametrize("changes", [{"seconds": -1.0}, {"crossfade": float("inf")}, {"seconds": float("nan")}])
def test_times_that_are_none_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        ScheduledPrompt(text=A, **changes)
