"""The offline judge: undamaged clips rate well, more damage never rates better, and what is damaged is named."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sfpp_core.stability.measure import FrameSeries, measure
from sfpp_core.stability.offline.judge import Damage, Event, OfflineJudge, assess, events_of
from sfpp_core.stability.score import Rating, visual_stability
from sfpp_core.video.span import VideoSpan
from tests.helpers.clips import footage, pan, scene
from tests.helpers.damages import DESIGNED, HELD_OUT, Frames

STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0)
# Indices of scenes whose object crosses the picture slowly, quickly, or bounces.
SCENES = (0, 2, 5, 7, 12, 19, 22)


def judged(frames: Frames, fps: float) -> Rating:
    return OfflineJudge().rate(footage(frames, fps), "")


def found_in(video: VideoSpan) -> list[Event]:
    return events_of(assess(measure(video)))


def ranks(values: list[float]) -> np.ndarray:
    """Ranks from 0, equal values sharing the mean of theirs."""
    array = np.array(values)
    return np.array([((array < value).sum() + (array <= value).sum() - 1) / 2 for value in array])


def spearman(first: list[float], second: list[float]) -> float:
    return float(np.corrcoef(ranks(first), ranks(second))[0, 1])


@pytest.mark.parametrize("index", SCENES)
def test_scenes_without_damage_rate_well(index: int) -> None:
    assert judged(scene(index, 160), 16).rating > 4.3


@pytest.mark.parametrize("fps", [10.0, 24.0, 60.0])
def test_a_camera_that_pans_over_other_light_and_colours_is_no_damage(fps: float) -> None:
    rating = judged(pan(int(5 * fps), fps), fps)
    assert rating.rating > 4.5, rating.explanation


def test_a_still_or_plain_video_is_not_damaged() -> None:
    for picture in (scene(0, 1)[0], np.full((48, 64, 3), 90, np.uint8), np.full((48, 64, 3), 30, np.uint8)):
        rating = judged([picture] * 64, 16)
        assert rating.rating > 4.9, rating.explanation


def test_a_picture_that_is_white_or_black_from_the_first_frame_is_bad() -> None:
    assert judged([np.full((48, 64, 3), 255, np.uint8)] * 32, 16).rating < 1
    assert judged([np.full((48, 64, 3), 0, np.uint8)] * 32, 16).rating < 3


@pytest.mark.parametrize("name", DESIGNED)
@pytest.mark.parametrize(("clip", "damages"), [("scene", DESIGNED), ("pan", HELD_OUT)])
def test_more_damage_rates_worse_and_is_named(name: str, clip: str, damages: dict[str, Callable]) -> None:
    frames, fps = (scene(3), 16.0) if clip == "scene" else (pan(96, 24.0), 24.0)
    ratings = [judged(damages[name](frames, fps, strength), fps) for strength in STRENGTHS]
    assert round(spearman(list(STRENGTHS), [rating.rating for rating in ratings]), 6) <= -0.9
    assert ratings[-1].rating < judged(frames, fps).rating - 0.2
    for rating in ratings[2:]:
        assert name in rating.explanation


@pytest.mark.parametrize("name", DESIGNED)
def test_damage_is_placed_in_its_segment(name: str) -> None:
    """Thirty seconds that are damaged from 10 to 20; what recovers is well again, and what was fine before stays so."""
    frames, fps = pan(300, 10.0), 10.0
    middle = DESIGNED[name](frames[:200], fps, 1.0)[100:200]
    video = footage([*frames[:100], *middle, *frames[200:]], fps)
    first, second, _ = visual_stability(video, "", OfflineJudge()).segments
    assert name not in first.explanation and first.rating > 4
    assert name in second.explanation and second.rating < first.rating
    events = [event for event in found_in(video) if event.kind == name]
    assert any(9.5 <= event.start <= 20 for event in events)
    assert all(9.5 <= event.start for event in events)


def test_one_cut_to_another_scene_costs_little() -> None:
    frames = [*pan(60, 12.0, seed=1), *pan(60, 12.0, seed=2)]
    rating = judged(frames, 12)
    assert 4 < rating.rating < 4.9
    assert "hard cut at 0:05" in rating.explanation


def test_a_whole_video_is_measured_once_for_all_its_segments() -> None:
    measured: list[VideoSpan] = []

    def count(video: VideoSpan) -> FrameSeries:
        measured.append(video)
        return measure(video)

    whole, judge = footage(scene(0, 320)), OfflineJudge(count)
    stability = visual_stability(whole, "a boat", judge, segment_seconds=5)
    assert len(stability.segments) == 4
    assert measured == [whole]
    assert judge.assessment(whole.segment(1, 2)).series.time[-1] == 319 / 16


def test_it_says_that_it_is_the_offline_judge() -> None:
    judge = OfflineJudge()
    assert judge.name.startswith("offline")
    assert judge.rate(footage(scene(0, 16)), "").explanation.startswith("Offline judge")


def test_damage_that_is_none_in_a_video_can_be_let_pass() -> None:
    """A pendulum's video plays its beginning again, and still it may go dark."""
    periodic = np.concatenate([scene(0, 64)] * 4)
    darker = (periodic * np.linspace(1, 0.1, 256)[:, None, None, None]).astype(np.uint8)
    lenient = OfflineJudge(unheeded=[Damage.LOOP])
    assert lenient.name == f"{OfflineJudge().name} without loop"
    strict, let_pass = (judge.rate(footage(periodic, 16.0), "") for judge in (OfflineJudge(), lenient))
    assert "loop" in strict.explanation and strict.rating < 2.5
    assert "loop" not in let_pass.explanation and let_pass.rating > 4
    assert lenient.rate(footage(darker, 16.0), "").rating < let_pass.rating - 2


def test_events_are_in_order_with_their_strength() -> None:
    frames, fps = pan(240, 12.0), 12.0
    damaged = DESIGNED["blur"](DESIGNED["freeze"](frames, fps, 0.5), fps, 1.0)
    events = found_in(footage(damaged, fps))
    assert {Damage.FREEZE, Damage.BLUR} <= {event.kind for event in events}
    assert [event.start for event in events] == sorted(event.start for event in events)
    assert all(0 < event.strength <= 1 and str(event.kind) in event.description for event in events)
