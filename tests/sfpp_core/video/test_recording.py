"""The sound of a video file, as it is heard beside a span of its pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfpp_core.video.recording import has_sound, read_recording
from tests.helpers.recordings import HEARD, damage_sound, loudness, video


@pytest.mark.parametrize(
    ("layout", "rate", "strengths"),
    (
        ("mono", 22050, [1]),
        ("stereo", 44100, [1, 0.5]),
        ("stereo", 48000, [1, 0.5]),
        ("5.1", 48000, [1, 0.5, 0.25, None, 0.0625, 0.03125]),
    ),
)
def test_it_is_heard_when_and_as_loud_as_it_was(
    tmp_path: Path, layout: str, rate: int, strengths: list[float | None]
) -> None:
    path = video(tmp_path / "video.mp4", layouts=(layout,), rate=rate)
    recording = read_recording(path, 0.0, 2.0)
    assert has_sound(path) and recording.is_whole and not recording.goes_on
    sound = recording.sound
    assert sound.rate == rate and sound.samples.shape == (len(strengths), 2 * rate)
    for second in (0, 1):
        loud = loudness(sound.samples, rate, second + 0.1, second + 0.4)
        quiet = loudness(sound.samples, rate, second + 0.6, second + 0.9)
        # The fourth of 5.1 is for the deepest tones alone.
        for strength, during, after in zip(strengths, loud, quiet, strict=True):
            assert strength is None or during == pytest.approx(HEARD * strength, rel=0.1)
            assert after < 0.01


def test_channels_without_a_name_of_their_own_are_mixed_to_two(tmp_path: Path) -> None:
    path = video(tmp_path / "video.mkv", layouts=("quad",), codec="flac")
    sound = read_recording(path, 0.0, 2.0).sound
    assert sound.samples.shape[0] == 2
    assert min(loudness(sound.samples, sound.rate, 0.1, 0.4)) > 0.05


def test_a_span_has_its_own_part(tmp_path: Path) -> None:
    path = video(tmp_path / "video.mp4", seconds=6.0, sound_seconds=6.0)
    recording = read_recording(path, 3.5, 1.0)
    samples, rate = recording.sound.samples, recording.sound.rate
    assert samples.shape[1] == rate and recording.goes_on
    assert loudness(samples, rate, 0.1, 0.4)[0] < 0.01
    assert loudness(samples, rate, 0.6, 0.9)[0] == pytest.approx(HEARD, rel=0.1)


@pytest.mark.parametrize(("sound_seconds", "goes_on"), ((1.0, False), (2.05, False), (2.5, True)))
def test_shorter_sound_ends_in_silence_and_longer_is_cut(tmp_path: Path, sound_seconds: float, goes_on: bool) -> None:
    path = video(tmp_path / "video.mp4", sound_seconds=sound_seconds)
    recording = read_recording(path, 0.0, 2.0)
    samples, rate = recording.sound.samples, recording.sound.rate
    assert samples.shape[1] == 2 * rate and recording.goes_on == goes_on and recording.is_whole
    assert (loudness(samples, rate, 1.1, 1.4)[0] < 0.01) == (sound_seconds == 1.0)


def test_sound_that_begins_late_stays_late(tmp_path: Path) -> None:
    path = video(tmp_path / "video.mkv", sound_seconds=1.0, late=0.75, codec="flac")
    samples, rate = (sound := read_recording(path, 0.0, 2.0).sound).samples, sound.rate
    assert samples[:, : round(0.74 * rate)].abs().max() == 0
    assert loudness(samples, rate, 0.8, 1.2)[0] == pytest.approx(HEARD, rel=0.1)


def test_of_several_tracks_the_first_is_taken(tmp_path: Path) -> None:
    path = video(tmp_path / "video.mp4", layouts=("mono", "mono"))
    samples, rate = (sound := read_recording(path, 0.0, 2.0).sound).samples, sound.rate
    assert loudness(samples, rate, 0.1, 0.4)[0] == pytest.approx(HEARD, rel=0.1)


def test_a_video_without_sound_has_none(tmp_path: Path) -> None:
    path = video(tmp_path / "video.mp4", layouts=())
    assert read_recording(path, 0.0, 2.0) is None and not has_sound(path)


@pytest.mark.parametrize("damaged", (0.5, 0.0), ids=("second half", "all"))
def test_what_cannot_be_decoded_is_silent_and_told(tmp_path: Path, damaged: float) -> None:
    path = video(tmp_path / "video.mkv", codec="flac")
    damage_sound(path, share=1 - damaged)
    recording = read_recording(path, 0.0, 2.0)
    assert not recording.is_whole
    if damaged:
        samples, rate = recording.sound.samples, recording.sound.rate
        assert loudness(samples, rate, 0.1, 0.4)[0] == pytest.approx(HEARD, rel=0.1)
        assert samples[:, round(1.2 * rate) :].abs().max() == 0
    else:
        assert recording.sound is None or recording.sound.samples.abs().max() == 0
