"""Footage: what is in a file comes out of it at the right time, of whatever kind it is, and what is broken is named."""

from __future__ import annotations

import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from sfpp_core.stability.measure import measure
from sfpp_core.video.reader import VideoFileError
from sfpp_core.video.span import VideoSpan
from tests.helpers.videos import moving_square, write


def levels(num_frames: int, height: int, width: int) -> np.ndarray:
    """T H W C uint8: frame i is a plain grey of 20 + 4 i."""
    grey = (20 + 4 * np.arange(num_frames, dtype=np.uint8))[:, None, None, None]
    return np.broadcast_to(grey, (num_frames, height, width, 3))


def encode(
    path: Path, pictures: np.ndarray, codec: str, pix_fmt: str, times: list[int] | None = None, ticks: int = 16
) -> Path:
    """Write uint8 pictures T H W C (RGB or RGBA) at `times` in ticks, with any codec."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=ticks)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = Fraction(1, ticks)
        for index, picture in enumerate(pictures):
            layout = "rgba" if picture.shape[-1] == 4 else "rgb24"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=layout)
            frame.pts, frame.time_base = (times[index] if times else index), Fraction(1, ticks)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_frames_of_a_segment_are_those_of_the_whole(tmp_path: Path) -> None:
    video = VideoSpan.open(write(tmp_path / "video.mp4", moving_square(80)))
    whole = dict(video.frames())
    part = dict(video.segment(2.0, 3.5).frames())
    assert list(whole) == [index / 16 for index in range(80)]
    assert list(part) == [index / 16 for index in range(32, 56)]
    assert all(np.array_equal(part[time], whole[time]) for time in part)
    assert video.segment(4.0, 9.0).end == video.duration == 5.0
    assert video.segment(2.0, 3.0).whole == video
    with pytest.raises(ValueError, match=r"video.mp4: no span from 6 to 5.0 seconds; the video lasts 5.00 seconds"):
        video.segment(6, 7)


@pytest.mark.parametrize(("fps", "rate"), [(10, 10), (16, 16), (24, 12), (25, 12.5), (30, 15), (60, 15)])
def test_steady_motion_stays_steady_at_a_lower_rate(fps: int, rate: float) -> None:
    times = [time for time, _ in VideoSpan.from_images(torch.zeros(2 * fps, 8, 8, 3), fps).frames(16)]
    assert np.diff(times) == pytest.approx(1 / rate)


def test_time_decides_where_the_rate_varies(tmp_path: Path) -> None:
    """Fast and slow by turns: 8 frames 1/32 s apart, then 4 of 1/4 s."""
    times = [*range(8), *range(8, 40, 8)]
    video = VideoSpan.open(encode(tmp_path / "vfr.mkv", levels(12, 32, 32), "libx264", "yuv420p", times, ticks=32))
    shown = list(video.frames(16))
    assert [time for time, _ in shown] == pytest.approx([tick / 32 for tick in (0, 2, 4, 6, 8, 16, 24, 32)], abs=1e-3)
    assert [int(picture.mean()) for _, picture in shown] == pytest.approx([20, 28, 36, 44, 52, 56, 60, 64], abs=2)


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("ten_bit.mkv", "libx264", "yuv420p10le"),
        ("ten_bit.mp4", "libx265", "yuv420p10le"),
        ("odd.mkv", "ffv1", "yuv444p"),
        ("alpha.mkv", "ffv1", "bgra"),
        ("alpha.mov", "prores_ks", "yuva444p10le"),
        ("alpha.webm", "libvpx-vp9", "yuva420p"),
    ],
)
def test_every_kind_of_picture_has_the_right_values(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    height, width = (33, 35) if name.startswith("odd") else (48, 64)
    pictures = levels(12, height, width)
    if "alpha" in name:
        alpha = np.full_like(pictures[..., :1], 128)
        pictures = np.concatenate((pictures, alpha), axis=-1)
    video = VideoSpan.open(encode(tmp_path / name, pictures, codec, pix_fmt))
    series = measure(video)
    assert video.size == (height, width)
    assert series.luminance * 255 == pytest.approx(20 + 4 * np.arange(12), abs=2.5)
    assert series.time == pytest.approx(np.arange(12) / 16, abs=2e-3)


def test_one_frame_is_a_short_video(tmp_path: Path) -> None:
    video = VideoSpan.open(encode(tmp_path / "still.mkv", levels(1, 33, 31), "ffv1", "yuv444p"))
    assert len(list(video.frames())) == 1
    assert video.duration == pytest.approx(1 / 16, abs=2e-3)
    again = VideoSpan.open(_file(tmp_path / "again.mp4", video.mp4()))
    assert again.size == (34, 32)


def test_pictures_in_memory() -> None:
    images = torch.rand(1, 33, 31, 4, generator=torch.Generator().manual_seed(0))
    video = VideoSpan.from_images(images)
    ((time, picture),) = video.frames()
    assert (time, video.duration, video.size, video.path) == (0.0, 1 / 16, (33, 31), None)
    assert np.array_equal(picture, (images[0, ..., :3] * 255).round().byte().numpy())
    with pytest.raises(ValueError, match=r"the images are \(0, 8, 8, 3\)"):
        VideoSpan.from_images(torch.zeros(0, 8, 8, 3))
    with pytest.raises(ValueError, match="fps is 0"):
        VideoSpan.from_images(images, fps=0)
    with pytest.raises(ValueError, match="non-finite"):
        VideoSpan.from_images(images * float("nan"))


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_whole_mp4_is_handed_over_as_it_is_and_a_part_of_it_is_encoded(tmp_path: Path) -> None:
    path = write(tmp_path / "video.mp4", moving_square(80), fps=30)
    video = VideoSpan.open(path)
    assert video.mp4() == path.read_bytes()
    part = VideoSpan.open(_file(tmp_path / "part.mp4", video.segment(1.0, 2.0).mp4()))
    assert part.duration == pytest.approx(1.0)
    assert len(list(part.frames(100))) == 15
    for (_, encoded), (_, original) in zip(part.frames(), video.segment(1.0, 2.0).frames(), strict=True):
        assert np.abs(encoded.astype(int) - original).mean() < 3


def test_a_fingerprint_is_that_of_content_and_span(tmp_path: Path) -> None:
    video = VideoSpan.open(write(tmp_path / "video.mp4", moving_square(40)))
    copy = VideoSpan.open(_file(tmp_path / "copy.mp4", video.mp4()))
    other = VideoSpan.open(write(tmp_path / "other.mp4", moving_square(41)))
    prints = [video, other, video.segment(0, 1), video.segment(1, 2), VideoSpan.from_images(moving_square(40))]
    assert copy.fingerprint() == video.fingerprint()
    assert len({footage.fingerprint() for footage in prints}) == len(prints)


def test_files_that_are_no_video_are_named(tmp_path: Path) -> None:
    sound = tmp_path / "sound.wav"
    with wave.open(str(sound), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(3200))
    with pytest.raises(VideoFileError, match="sound.wav has no video stream"):
        VideoSpan.open(sound)
    with pytest.raises(FileNotFoundError):
        VideoSpan.open(tmp_path / "missing.mp4")
    with pytest.raises(VideoFileError, match="empty.mp4"):
        VideoSpan.open(_file(tmp_path / "empty.mp4", b""))


def test_a_stream_without_frames_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nothing.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=16)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv444p"
        container.start_encoding()
    with pytest.raises(VideoFileError, match="nothing.mkv .*(without a single frame|no pictures|no video)"):
        VideoSpan.open(path)


def test_a_video_that_is_cut_short_is_named_when_it_is_opened(tmp_path: Path) -> None:
    noise = torch.rand(40, 48, 64, 3, generator=torch.Generator().manual_seed(0))
    content = write(tmp_path / "video.mp4", noise).read_bytes()
    for share in (0.1, 0.5, 0.75, 0.999):
        with pytest.raises(VideoFileError, match="cut.mp4 is (damaged or cut short|cut short|no video that can be)"):
            VideoSpan.open(_file(tmp_path / "cut.mp4", content[: int(share * len(content))]))
