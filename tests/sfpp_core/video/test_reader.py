"""Videos come out of files, and a file that is damaged, cut short or no video is told from one that is whole."""

from __future__ import annotations

import wave
from pathlib import Path

import av
import pytest
import torch

from sfpp_core.video.reader import VideoFileError, VideoReader
from tests.helpers.videos import HEIGHT, WIDTH, moving_square, read, write


def test_frames_come_in_chunks_and_again_from_the_start(tmp_path: Path) -> None:
    path = write(tmp_path / "video.mp4", moving_square(7))
    with VideoReader(path) as reader:
        once = list(reader.chunks(3))
        assert [chunk.shape[0] for chunk in once] == [3, 3, 1]
        assert torch.equal(torch.cat(list(reader.chunks(100))), torch.cat(once))
        with pytest.raises(ValueError, match="max_frames is 0"):
            next(reader.chunks(0))


def cut(path: Path, size: int) -> Path:
    shorter = path.with_name("cut.mp4")
    shorter.write_bytes(path.read_bytes()[:size])
    return shorter


def test_a_video_that_is_cut_short_is_not_taken_for_a_shorter_one(tmp_path: Path) -> None:
    noise = torch.rand(40, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0))
    path = write(tmp_path / "video.mp4", noise)
    size = path.stat().st_size
    for length in (size // 2, size * 3 // 4, size - 2000, size - 10):
        with pytest.raises(VideoFileError, match="cut.mp4 is (damaged or )?cut short"):
            read(cut(path, length))
    with pytest.raises(VideoFileError, match="cut.mp4 is no video that can be read"):
        read(cut(path, 500))


def test_files_that_are_no_video_are_named(tmp_path: Path) -> None:
    text, sound = tmp_path / "notes.mp4", tmp_path / "sound.wav"
    text.write_text("not a video " * 100)
    with wave.open(str(sound), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(3200))
    with pytest.raises(VideoFileError, match="notes.mp4 is no video that can be read"):
        VideoReader(text)
    with pytest.raises(VideoFileError, match="sound.wav has no video stream"):
        VideoReader(sound)
    with pytest.raises(FileNotFoundError):
        VideoReader(tmp_path / "missing.mp4")


def test_a_trimmed_video_is_whole(tmp_path: Path) -> None:
    """A cut that only skips frames by an edit list, as phones make them, is no damage."""
    source = write(tmp_path / "video.mp4", moving_square(32))
    trimmed = tmp_path / "trimmed.mp4"
    with av.open(str(source)) as before, av.open(str(trimmed), "w") as after:
        stream = after.add_stream_from_template(before.streams.video[0], opaque=True)
        for packet in before.demux(video=0):
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts - 8 * packet.duration, packet.dts - 8 * packet.duration
                packet.stream = stream
                after.mux(packet)
    assert read(trimmed).shape[0] == 24
