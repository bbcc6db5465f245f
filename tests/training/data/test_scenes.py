"""The built-in world keeps its promises: known distribution, closed-form videos, motion as the prompt says."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sfpp_core.tiny.text import TinyTokenizer
from training.data.scenes import (
    ATTRIBUTES,
    BOUNCE_SECONDS,
    HISTORY_RANGES,
    TRAVEL_WIDTHS_PER_SECOND,
    Attributes,
    Colour,
    Motion,
    ObjectKind,
    Place,
    SceneSpec,
    Speed,
    describe,
    prompt_for,
    render,
    sample_scene,
)

SIZE = 64
FRAMES_IN_20_MINUTES = 20 * 60 * 16


def scene(index: int = 0, **attributes: object) -> SceneSpec:
    spec = sample_scene(7, index)
    return replace(spec, attributes=replace(spec.attributes, **attributes))


def video_of(spec: SceneSpec, num_frames: int, start_frame: int = 0, width: int = SIZE) -> Tensor:
    return render(spec, start_frame, num_frames, SIZE, width)[0]


def object_centres(spec: SceneSpec, num_frames: int, width: int = SIZE) -> Tensor:
    """Centre of the red object, [F, 2] as (x, y) in pixels, from the pixels alone: where the ground turned redder."""
    attributes = replace(spec.attributes, colour=Colour.RED)
    video = video_of(replace(spec, attributes=attributes), num_frames, width=width)
    away = replace(spec, attributes=replace(attributes, motion=Motion.RIGHT), start_phase=0.0)
    redder = redness(video) - redness(video_of(away, 1, width=width))
    changed = redder * (redder > 0.3)
    mass = changed.sum(dim=(1, 2)).clamp(min=1e-6)
    rows, columns = (torch.arange(length, dtype=torch.float32) for length in changed.shape[1:])
    x = (changed.sum(dim=1) * columns).sum(dim=1) / mass
    y = (changed.sum(dim=2) * rows).sum(dim=1) / mass
    return torch.stack([x, y], dim=1)


def redness(video: Tensor) -> Tensor:
    return video[0] - (video[1] + video[2]) / 2


def test_a_scene_is_a_pure_function_of_seed_and_index() -> None:
    assert sample_scene(3, 5) == sample_scene(3, 5)
    assert len({sample_scene(seed, index) for seed in (0, 1) for index in range(50)}) == 100


def test_every_attribute_is_uniform() -> None:
    specs = [sample_scene(0, index) for index in range(4000)]
    for name, choices in ATTRIBUTES.items():
        counts = Counter(getattr(spec.attributes, name) for spec in specs)
        expected = len(specs) / len(choices)
        chi_squared = sum((counts[choice] - expected) ** 2 / expected for choice in choices)
        assert chi_squared < 25, f"{name}: {counts}"


def test_history_is_uniform_and_independent() -> None:
    specs = [sample_scene(0, index) for index in range(4000)]
    columns = [torch.tensor([getattr(spec, name) for spec in specs]) for name in HISTORY_RANGES]
    for values, (low, high) in zip(columns, HISTORY_RANGES.values(), strict=True):
        unit = (values - low) / (high - low)
        assert unit.mean().item() == pytest.approx(0.5, abs=0.025)
        assert unit.std().item() == pytest.approx(12**-0.5, abs=0.01)
    places = torch.tensor([list(Place).index(spec.attributes.place) for spec in specs], dtype=torch.float32)
    correlation = torch.corrcoef(torch.stack([*columns, places])) - torch.eye(len(columns) + 1)
    assert correlation.abs().max() < 0.08


@pytest.mark.parametrize("motion", list(Motion))
@pytest.mark.parametrize("kind", list(ObjectKind))
def test_a_frame_does_not_depend_on_the_piece_it_is_rendered_in(kind: ObjectKind, motion: Motion) -> None:
    spec = scene(object=kind, motion=motion)
    whole = video_of(spec, 100)
    assert torch.equal(whole[:, 50:], video_of(spec, 50, start_frame=50))
    assert torch.equal(whole[:, 77:78], video_of(spec, 1, start_frame=77))


@pytest.mark.parametrize("place", list(Place))
def test_pixels_are_in_range_and_a_batch_equals_its_scenes(place: Place) -> None:
    specs = [scene(index, place=place) for index in range(3)]
    batch = render(specs, 0, 9, 48, 80)
    assert batch.shape == (3, 3, 9, 48, 80) and batch.dtype is torch.float32
    assert batch.min() >= -1 and batch.max() <= 1 and batch.std() > 0.2
    assert torch.equal(batch[1], render(specs[1], 0, 9, 48, 80)[0])


@pytest.mark.parametrize("place", list(Place))
def test_nothing_but_the_object_and_its_shadow_moves(place: Place) -> None:
    video = video_of(scene(place=place, motion=Motion.BOUNCE, speed=Speed.FAST), 32)
    changed = (video - video[:, :1]).abs().amax(dim=(0, 1)) > 0
    assert 0.01 < changed.float().mean() < 0.35


@pytest.mark.parametrize("speed", list(Speed))
@pytest.mark.parametrize("motion", [Motion.LEFT, Motion.RIGHT])
@pytest.mark.parametrize("place", list(Place))
def test_travel_has_the_named_way_and_speed(place: Place, motion: Motion, speed: Speed) -> None:
    spec = replace(scene(place=place, motion=motion, speed=speed), start_phase=0.3 if motion is Motion.RIGHT else 0.7)
    centres = object_centres(spec, 16)
    per_second = (centres[15, 0] - centres[0, 0]).item() / 15 * 16
    nominal = TRAVEL_WIDTHS_PER_SECOND[speed] * SIZE * spec.pace * (1 if motion is Motion.RIGHT else -1)
    assert per_second == pytest.approx(nominal, rel=0.15)
    assert (centres[:, 1] - centres[0, 1]).abs().max() < 1


def test_travel_speed_is_relative_to_the_width() -> None:
    spec = replace(scene(place=Place.SEA, motion=Motion.RIGHT, speed=Speed.FAST), start_phase=0.3)
    centres = object_centres(spec, 11, width=2 * SIZE)
    per_second = (centres[10, 0] - centres[0, 0]).item() / 10 * 16
    assert per_second == pytest.approx(TRAVEL_WIDTHS_PER_SECOND[Speed.FAST] * 2 * SIZE * spec.pace, rel=0.1)


@pytest.mark.parametrize("speed", list(Speed))
def test_bounce_has_the_named_period_and_stays_in_place(speed: Speed) -> None:
    spec = scene(place=Place.SEA, motion=Motion.BOUNCE, speed=speed)
    spec = replace(spec, pace=1.0, start_phase=0.0)
    centres = object_centres(spec, 81)
    assert centres[:, 0].std() < 0.5
    period = round(BOUNCE_SECONDS[speed] * 16)
    rise = centres[0, 1] - centres[period // 2, 1]
    assert rise > 0.25 * SIZE
    assert torch.allclose(centres[:-period, 1], centres[period:, 1], atol=0.01)


def test_the_object_that_left_comes_back_on_the_other_side() -> None:
    spec = replace(scene(motion=Motion.RIGHT, speed=Speed.FAST, place=Place.MEADOW), start_phase=0.9)
    x = object_centres(spec, 33)[:, 0]
    assert x[0] > 0.75 * SIZE and x[16] < 0.45 * SIZE
    assert (x[17:32] > x[16:31]).all()


def test_a_video_has_no_end() -> None:
    spec = scene(motion=Motion.BOUNCE, speed=Speed.SLOW)
    late = video_of(replace(spec, pace=1.0), 40, start_frame=FRAMES_IN_20_MINUTES)
    assert torch.allclose(late, video_of(replace(spec, pace=1.0), 40), atol=1e-4)
    assert not torch.equal(video_of(spec, 1, start_frame=10**9), video_of(spec, 1, start_frame=10**9 + 5))


@pytest.mark.parametrize("field", ["exposure", "tint", "light_x", "relief_phase", "texture_phase", "size", "height"])
@pytest.mark.parametrize("place", list(Place))
def test_what_only_history_carries_shows(place: Place, field: str) -> None:
    spec = scene(place=place, motion=Motion.BOUNCE)
    low, high = HISTORY_RANGES[field]
    quarter = (high - low) / 4
    one, other = (replace(spec, **{field: value}) for value in (low + quarter, high - quarter))
    assert (video_of(one, 1) - video_of(other, 1)).square().mean().sqrt() > 0.02


def test_exposure_brightens_and_tint_warms() -> None:
    for place in Place:
        spec = scene(place=place)
        dark, bright = (video_of(replace(spec, exposure=value, tint=0.0), 1) for value in (0.8, 1.2))
        assert (bright - dark).mean() > 0.1
        cool, warm = (video_of(replace(spec, tint=value), 1) for value in (-1.0, 1.0))
        assert (warm - cool)[0].mean() > 0.05 and (warm - cool)[2].mean() < -0.05


def test_prompts_name_every_attribute_in_every_wording() -> None:
    motion_words = {Motion.LEFT: "left", Motion.RIGHT: "right", Motion.BOUNCE: "up and down"}
    speed_words = {Speed.SLOW: "slowly", Speed.FAST: "quickly"}
    for index in range(500):
        spec = sample_scene(2, index)
        said, named = prompt_for(spec).lower(), spec.attributes
        words = (named.place, named.object, named.colour, motion_words[named.motion], speed_words[named.speed])
        for word in words:
            assert word in said, f"{word!r} is not in {said!r}"
        others = [other for other in ObjectKind if other is not named.object]
        assert not any(other in said for other in others), said


def test_language_varies() -> None:
    attributes = scene().attributes
    assert len({describe(attributes, wording) for wording in range(1000)}) > 50
    assert describe(attributes) == describe(attributes, 0)


def test_class_indices_round_trip() -> None:
    for index in range(50):
        attributes = sample_scene(0, index).attributes
        assert Attributes.from_indices(attributes.indices()) == attributes


def test_values_outside_the_distribution_are_refused() -> None:
    with pytest.raises(ValueError, match=r"exposure is 2\.0; a scene needs 0\.8 to 1\.2"):
        replace(scene(), exposure=2.0)
    with pytest.raises(ValueError, match="num_frames 0"):
        render(scene(), 0, 0, 8, 8)


def test_the_text_encoder_knows_every_word_of_every_prompt() -> None:
    tokenizer = TinyTokenizer()
    said = {word for index in range(2000) for word in re.findall(r"\w+", prompt_for(sample_scene(4, index)).lower())}
    assert len(said) > 40
    assert {word for word in said if not tokenizer.knows(word)} == set()
