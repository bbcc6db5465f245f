"""What an evaluation says of videos: measured while they are made, of a length and nothing after it, and the truth."""

from __future__ import annotations

import threading
from dataclasses import fields, replace
from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor

from sfpp_core.stability.measure import FrameSeries, measure
from sfpp_core.stability.offline.judge import OfflineJudge
from sfpp_core.stability.score import visual_stability
from sfpp_core.video.span import VideoSpan
from tests.helpers.clips import scene
from training.config import ConfigError
from training.data.scenes import Motion, describe, render, sample_scene
from training.evaluation.figures import (
    END_FRAMES,
    Ends,
    VideoFigures,
    curve_edges,
    drift_curves,
    frames_of,
    latent_frames_of,
)
from training.evaluation.judging import Measuring, VideoCutShort
from training.evaluation.truth import (
    attributes_in,
    autoencoded,
    light_of,
    true_scene,
    true_videos,
    true_windows,
    videos_of_wandering_light,
)


def pictures(index: int, num_frames: int) -> np.ndarray:
    """uint8 F H W C."""
    return np.stack(scene(index, num_frames))


def darkening(video: np.ndarray, start: int) -> np.ndarray:
    """The same video, fading to black from a frame on."""
    gain = np.clip(1 - (np.arange(len(video)) - start) / 60, 0, 1)[:, None, None, None]
    return (video * gain + 0.5).astype(np.uint8)


def footage_of(video: np.ndarray) -> VideoSpan:
    return VideoSpan.from_images(torch.from_numpy(video).float() / 255)


def same_series(left: FrameSeries, right: FrameSeries) -> bool:
    return all(np.array_equal(getattr(left, field.name), getattr(right, field.name)) for field in fields(FrameSeries))


def test_a_video_in_pieces_is_measured_as_the_whole_video_is() -> None:
    videos = np.stack([pictures(1, 50), pictures(2, 50)])
    with Measuring(["one", "two"], 50, (64, 64)) as measuring:
        for start, end in ((0, 1), (1, 13), (13, 49), (49, 50)):
            measuring.push(videos[:, start:end])
    for video, series in zip(videos, measuring.series(), strict=True):
        assert same_series(series, measure(footage_of(video)))


def test_a_video_that_ends_early_is_an_error_and_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    with pytest.raises(VideoCutShort, match="one ended after 20 of 30 frames"):
        with Measuring(["one"], 30, (64, 64)) as measuring:
            measuring.push(pictures(1, 20)[None])
    with pytest.raises(KeyError, match="out of memory"):
        with Measuring(["one", "two"], 30, (64, 64)) as measuring:
            measuring.push(np.stack([pictures(1, 20), pictures(2, 20)]))
            raise KeyError("out of memory")
    assert threading.active_count() == before


def test_what_a_measurement_cannot_take_stops_the_making_of_the_video() -> None:
    """Pictures that change their size are no video; whoever goes on making them is told, and does not wait for ever."""
    with pytest.raises(Exception, match=r"(?i)size|shape|assert"):
        with Measuring(["one"], 1000, (64, 64)) as measuring:
            measuring.push(pictures(1, 2)[None])
            for _ in range(20):
                measuring.push(np.zeros((1, 1, 96, 80, 3), np.uint8))


def test_lengths_are_whole_latent_frames() -> None:
    assert [(latent_frames_of(seconds), frames_of(seconds)) for seconds in (5, 50, 1200)] == [
        (21, 81),
        (201, 801),
        (4801, 19201),
    ]


@pytest.mark.parametrize("piece", [1, 7, 48, 300])
def test_ends_are_cut_out_wherever_pieces_begin(piece: int) -> None:
    video = torch.arange(170, dtype=torch.float32).reshape(1, 1, 170, 1, 1).expand(2, 3, -1, 1, 1)
    ends = Ends([5.0, 6.0, 10.0])
    found = [(length, end) for part in video.split(piece, dim=2) for length, end in ends.see(part)]
    assert [length for length, _ in found] == [5.0, 6.0, 10.0]
    for length, end in found:
        last = frames_of(length)
        assert torch.equal(end, video[:, :, last - END_FRAMES : last])


def test_figures_at_a_length_know_nothing_of_what_comes_after_it() -> None:
    """The same first 6 seconds, and then one video goes on while the other goes dark."""
    steady = pictures(3, frames_of(12))
    fading = darkening(steady, frames_of(6) + 1)
    early, late = [], []
    for video in (steady, fading):
        footage, series = footage_of(video), measure(footage_of(video))
        early.append(VideoFigures.of(footage, series, 6.0, "a scene"))
        late.append(VideoFigures.of(footage, series, 12.0, "a scene"))
    assert early[0] == early[1]
    assert late[0].stability > 95 > 70 > late[1].stability > late[1].stability_end
    assert late[1].exposure_drift < -0.2 < -0.02 < late[0].exposure_drift < 0.02
    assert late[1].contrast_drift < -0.5


def test_stability_of_a_length_is_that_of_the_video_that_ends_there() -> None:
    video = darkening(pictures(4, frames_of(10)), 90)
    figures = VideoFigures.of(footage_of(video), measure(footage_of(video)), 7.0, "a scene")
    short = footage_of(video[: frames_of(7)])
    assert figures.stability == visual_stability(short, "a scene", OfflineJudge(), segment_seconds=None).score


def test_drift_is_averaged_between_times_that_grow_apart() -> None:
    edges = curve_edges(1200.0)
    assert edges[0] == 0 and edges[-1] == 1200 and (np.diff(edges) >= 1).all() and len(edges) < 80
    video = darkening(pictures(3, 128), 64)
    series = measure(footage_of(video))
    curves = drift_curves(series, curve_edges(8.0))
    assert len(curves["exposure"]) == 8
    by_hand = series.luminance[7 * 16 :].mean() - np.median(series.luminance[:32])
    assert curves["exposure"][7] == pytest.approx(by_hand, abs=1e-5) and abs(curves["exposure"][2]) < 0.02


def test_prompts_are_understood_in_every_wording() -> None:
    for index in range(300):
        spec = sample_scene(9, index)
        assert attributes_in(describe(spec.attributes, spec.wording)) == spec.attributes


@pytest.mark.parametrize(
    ("prompt", "missing"),
    [
        ("A red ball moves slowly to the left.", "no place"),
        ("A red and a blue ball move slowly left in a meadow.", "2 colour"),
        ("A lighthouse in the mountains.", "no object"),
    ],
)
def test_other_prompts_have_no_truth(prompt: str, missing: str) -> None:
    with pytest.raises(ConfigError, match=f"names {missing}; a truth is known only for prompts of the procedural"):
        attributes_in(prompt)


def test_true_scenes_are_of_the_prompt_and_vary_in_what_it_leaves_open() -> None:
    attributes = sample_scene(9, 1).attributes
    scenes = [true_scene(attributes, 3, "film", number) for number in range(40)]
    assert all(scene.attributes == attributes for scene in scenes)
    exposures = [scene.exposure for scene in scenes]
    assert min(exposures) < 0.9 and max(exposures) > 1.1
    assert scenes[0] == true_scene(attributes, 3, "film", 0) != true_scene(attributes, 4, "film", 0)


def test_true_videos_in_pieces_are_the_rendered_videos() -> None:
    scenes = [sample_scene(9, index) for index in range(2)]
    assert torch.equal(torch.cat(list(true_videos(scenes, 100, 32)), dim=2), render(scenes, 0, 100, 32, 32))


def test_light_that_wanders_has_at_any_moment_the_distribution_of_the_scenes() -> None:
    scenes = [sample_scene(9, index) for index in range(200)]
    pieces = islice(videos_of_wandering_light(scenes, 64, 8, 3.0, range(len(scenes))), 0, None, 15)
    first, last = (piece[:, :, 0].mean(dim=(1, 2, 3)) for piece in pieces)
    still = render(scenes, 0, 1, 8, 8).mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(first, still)
    assert (last - still).abs().mean() > 0.1
    assert abs(last.mean() - still.mean()) < 0.06 and last.std() / still.std() == pytest.approx(1, abs=0.1)


def test_light_wanders_slowly_and_turns_back_at_the_ends() -> None:
    scene = replace(sample_scene(9, 3), exposure=1.19)
    video = torch.cat(list(videos_of_wandering_light([scene], 30 * 16, 8, 10.0, [1])), dim=2)
    light = video[0].mean(dim=(0, 2, 3))
    assert light.diff().abs().max() < 0.02 and light.max() - light.min() > 0.2
    assert abs(light[-1] - light[0]) < light.max() - light.min()


def test_autoencoded_videos_come_out_in_pieces_as_they_would_whole() -> None:
    from tests.helpers.vae_models import random_vae

    vae = random_vae(dim=4)
    video = render([sample_scene(9, 0)], 0, 21, 16, 16)
    pieces = torch.cat(list(autoencoded(iter(video.split(8, dim=2)), vae)), dim=2)
    torch.testing.assert_close(pieces, vae.decode(vae.encode(video)), rtol=0, atol=1e-5)


def moved(windows: Tensor, amount: float) -> Tensor:
    return windows * 0.5 + amount


def test_light_is_that_of_the_pixels() -> None:
    windows = true_windows(sample_scene(9, 2).attributes, 3, 0, count=2, frames=6, size=32)
    shown = windows.double().numpy() / 2 + 0.5
    luma = np.einsum("bcfhw,c->bfhw", shown, (0.299, 0.587, 0.114))
    means = shown.mean(axis=(2, 3, 4))
    expected = np.concatenate(
        [
            luma.mean(axis=(1, 2, 3))[:, None],
            luma.std(axis=(2, 3)).mean(axis=1)[:, None],
            means - means.mean(axis=1, keepdims=True),
        ],
        axis=1,
    )
    assert np.allclose(light_of(windows).numpy(), expected, atol=1e-5)
    brighter = light_of(moved(windows, 0.2))
    assert torch.allclose(brighter[:, 1:], light_of(windows)[:, 1:] / 2, atol=1e-5), "an offset has no colour"


def test_light_is_the_same_under_autocast() -> None:
    """Videos are judged under the autocast that networks run in."""
    scenes = true_windows(sample_scene(9, 2).attributes, 3, 0, count=2, frames=6, size=32)
    windows = torch.cat([torch.full((1, 3, 6, 32, 32), 0.12), scenes])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = light_of(windows)
    assert torch.equal(found, light_of(windows)) and found.dtype == torch.float32
    assert found[0, 0].item() == pytest.approx(0.56, abs=1e-6)


def test_a_bounce_is_told_from_travel() -> None:
    assert attributes_in("In the sea, a white kite hops up and down quickly.").motion is Motion.BOUNCE
