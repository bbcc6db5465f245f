"""What a video may be besides its pictures in H.264 as they were made: in H.265, with sound, at another rate, with a
still beside it, watched while it is written.
"""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from einops import reduce
from PIL import Image
from torch import Tensor

from sfpp_core.video.codecs import CODECS, H264, H265, Sound, VideoCodec
from sfpp_core.video.reader import VideoReader
from sfpp_core.video.writer import VideoWriter, rgb_to_yuv420, save_thumbnail
from tests.helpers.memory import ROOT, needs_peak, probe
from tests.helpers.videos import HEIGHT, WIDTH, moving_square, names, read, write


@pytest.mark.parametrize(("codec", "name", "tag"), ((H264, "h264", "avc1"), (H265, "hevc", "hvc1")))
def test_a_video_is_in_the_codec_that_was_asked_for(tmp_path: Path, codec: VideoCodec, name: str, tag: str) -> None:
    path = write(tmp_path / "video.mp4", moving_square(30), codec=codec)
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.codec_tag, context.pix_fmt) == (name, tag, "yuv420p")
    assert read(path).shape[0] == 30
    assert path.read_bytes().index(b"moov") < path.read_bytes().index(b"mdat")


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_a_crf_of_0_loses_nothing_of_the_planes(tmp_path: Path, codec: VideoCodec) -> None:
    video = torch.rand(4, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0))
    path = write(tmp_path / "video.mp4", video, crf=0, codec=codec)
    with av.open(str(path)) as container:
        planes = [torch.from_numpy(frame.to_ndarray()) for frame in container.decode(video=0)]
    assert all(torch.equal(kept, rgb_to_yuv420(frame)) for kept, frame in zip(planes, video, strict=True))


def test_h265_is_smaller(tmp_path: Path) -> None:
    video = moving_square(40) + torch.rand(40, HEIGHT, WIDTH, 1, generator=torch.Generator().manual_seed(0)) / 20
    sizes = [write(tmp_path / "video.mp4", video, codec=codec, crf=24).stat().st_size for codec in (H264, H265)]
    assert sizes[1] < sizes[0]


def tone(seconds: float, *, rate: int, channels: int = 2, hertz: float = 440.0) -> Sound:
    """One frequency, each channel at half the strength of the one before."""
    wave = 0.5 * torch.sin(2 * torch.pi * hertz * torch.arange(round(seconds * rate)) / rate)
    return Sound(samples=torch.stack([wave / 2**channel for channel in range(channels)]), rate=rate)


def heard(path: Path) -> tuple[np.ndarray, int]:
    """Samples, channels x time, and their rate."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        assert stream.codec_context.name == "aac"
        assert abs(stream.duration * stream.time_base - Fraction(container.streams.video[0].duration, 16384)) < 0.001
        frames = [frame.to_ndarray() for frame in container.decode(stream)]
        return np.concatenate(frames, axis=1), stream.codec_context.sample_rate


def strength(samples: np.ndarray, start: float, end: float, *, rate: int, hertz: float = 440.0) -> np.ndarray:
    """Of one frequency in a span of seconds, for each channel."""
    part = samples[:, round(start * rate) : round(end * rate)]
    wave = np.exp(-2j * np.pi * hertz * np.arange(part.shape[1]) / rate)
    return 2 * abs(part @ wave) / part.shape[1]


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@pytest.mark.parametrize(
    ("rate", "channels", "kept"), ((44100, 2, 44100), (48000, 1, 48000), (37000, 2, 48000), (16000, 6, 16000))
)
def test_sound_is_kept(tmp_path: Path, codec: VideoCodec, rate: int, channels: int, kept: int) -> None:
    sound = tone(2.0, rate=rate, channels=channels)
    path = write(tmp_path / "video.mp4", moving_square(32), sound=sound, codec=codec)
    samples, found = heard(path)
    assert found == kept and samples.shape[0] == channels
    # The fourth of six channels is for low tones only.
    expected = [0.5 / 2**channel for channel in range(channels) if channel != 3]
    loud = np.delete(strength(samples, 0.5, 1.5, rate=kept), 3 if channels == 6 else [])
    assert np.allclose(loud, expected, rtol=0.1)
    assert read(path).shape[0] == 32


def test_a_long_sound_is_cut_and_a_short_one_ends_in_silence(tmp_path: Path) -> None:
    """Three seconds of video."""
    video = moving_square(48)
    long, rate = heard(write(tmp_path / "long.mp4", video, sound=tone(10.0, rate=44100)))
    assert abs(long.shape[1] / rate - 3) < 0.05 and strength(long, 2.5, 2.9, rate=rate)[0] > 0.4
    short, rate = heard(write(tmp_path / "short.mp4", video, sound=tone(1.0, rate=44100)))
    assert abs(short.shape[1] / rate - 3) < 0.05
    assert strength(short, 0.5, 0.9, rate=rate)[0] > 0.4 and abs(short[:, round(1.2 * rate) :]).max() < 1e-3


def test_sound_and_pictures_begin_together(tmp_path: Path) -> None:
    """A click with the ninth frame, half a second in, is heard then, and nothing before the first frame is kept."""
    samples = torch.zeros(1, 48000)
    samples[:, 24000:24100] = 0.9
    path = write(tmp_path / "video.mp4", moving_square(16), sound=Sound(samples=samples, rate=48000))
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    first = frames[0].time
    samples = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
    assert abs(first + abs(samples[0]).argmax() / 48000 - 0.5) < 0.005


def test_equal_sound_gives_equal_bytes_however_frames_arrive(tmp_path: Path) -> None:
    video, sound = moving_square(40), tone(3.0, rate=44100)
    whole = write(tmp_path / "whole.mp4", video, sound=sound).read_bytes()
    with VideoWriter(tmp_path / "pieces.mp4", WIDTH, HEIGHT, sound=sound) as writer:
        for piece in video.split((1, 4, 35)):
            writer.write(piece)
    assert (tmp_path / "pieces.mp4").read_bytes() == whole


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    (
        (torch.zeros(3, 10), 44100, "3 channels; give it as mono, stereo or 5.1"),
        (torch.zeros(10), 44100, r"\(10,\), torch.float32; expected \(channels, samples\)"),
        (torch.zeros(2, 10, dtype=torch.int16), 44100, "torch.int16; expected"),
        (torch.zeros(2, 10), 0, "rate is 0"),
        (torch.full((2, 10), torch.nan), 44100, "non-finite"),
    ),
)
def test_sounds_that_cannot_be_are_refused(samples: Tensor, rate: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sound(samples=samples, rate=rate)


def numbered(frames: int) -> Tensor:
    """Frames of one grey each, by which they are told apart."""
    return (torch.arange(frames) / frames)[:, None, None, None].expand(frames, 32, 32, 3)


@pytest.mark.parametrize("fps", (8, 12, 16, 24, 25, 30, 60, Fraction(24000, 1001)))
def test_another_rate_shows_what_was_on_the_screen_then(tmp_path: Path, fps: Fraction | int) -> None:
    """In a video of 21 frames at 16 a second."""
    path = write(tmp_path / "video.mp4", numbered(21), fps=fps, made_fps=16, crf=4)
    with VideoReader(path) as reader:
        assert reader.fps == fps
        shown = [round(picture.mean() / 255 * 21) for _, picture in reader.pictures()]
    assert shown == [int(index * 16 / Fraction(fps)) for index in range(len(shown))]
    length = len(shown) / Fraction(fps)
    assert 0 <= length - Fraction(21, 16) < 1 / Fraction(fps)


def test_the_rate_it_was_made_at_changes_nothing(tmp_path: Path) -> None:
    video = moving_square(9)
    as_made = write(tmp_path / "a.mp4", video, fps=16).read_bytes()
    assert write(tmp_path / "b.mp4", video, fps=16, made_fps=16).read_bytes() == as_made


def test_a_thumbnail_is_the_first_picture_made_small_and_carries_the_workflow(tmp_path: Path) -> None:
    video = moving_square(3).repeat(1, 16, 16, 1)
    tags = {"workflow": json.dumps({"title": "gr\u00fc\u00df"}), "prompt": "{}"}
    path = write(tmp_path / "video.mp4", video)
    assert save_thumbnail(path, metadata=tags) == tmp_path / "video.png"
    assert names(tmp_path) == ["video.mp4", "video.png"]
    with Image.open(tmp_path / "video.png") as picture:
        assert picture.size == (512, 384) and picture.text == tags
        colours = torch.from_numpy(np.array(picture)).float() / 255
    assert (colours - reduce(video[0], "(h two_h) (w two_w) c -> h w c", "mean", two_h=2, two_w=2)).abs().mean() < 0.02


def watched(path: Path) -> int:
    """Frames that a player shows of a file as it is now."""
    with av.open(str(path)) as container:
        assert container.metadata["workflow"] == "{}"
        return sum(1 for _ in container.decode(video=0))


@pytest.mark.parametrize("sound", (None, tone(9.0, rate=44100)), ids=("silent", "with sound"))
@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_a_video_can_be_watched_while_it_grows(tmp_path: Path, codec: VideoCodec, sound: Sound | None) -> None:
    seen = []
    with VideoWriter(
        tmp_path / "video.mp4", WIDTH, HEIGHT, codec=codec, sound=sound, metadata={"workflow": "{}"}
    ) as writer:
        for piece in moving_square(144).split(48):
            writer.write(piece)
            if writer.num_frames > 48:
                (unfinished,) = tmp_path.glob("unfinished.video.*.mp4")
                seen.append(watched(unfinished))
    # All but what the encoder still looks at, and the piece at work.
    assert 20 <= seen[0] < seen[1] < 144 and seen[1] - seen[0] >= 32
    assert names(tmp_path) == ["video.mp4"] and watched(tmp_path / "video.mp4") == 144


KILLED = """
import sys, time
from sfpp_core.video.writer import VideoWriter
from tests.helpers.videos import HEIGHT, WIDTH, moving_square
with VideoWriter(sys.argv[1], WIDTH, HEIGHT, metadata={"workflow": "{}"}) as writer:
    writer.write(moving_square(100))
    print("ready", flush=True)
    time.sleep(60)
"""


def test_what_a_kill_leaves_can_be_watched_until_the_next_video(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "video.mp4")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.kill()
    (left,) = tmp_path.glob("unfinished.video.*.mp4")
    assert watched(left) >= 32
    write(tmp_path / "video.mp4", moving_square(2))
    assert names(tmp_path) == ["video.mp4"]


MEMORY_PROBE = """
import sys, torch
from sfpp_core.video.codecs import Sound
from sfpp_core.video.writer import VideoWriter
from tests.helpers.memory import peak_mib
picture = torch.rand(1, 128, 128, 3)
sound = Sound(samples=torch.rand(2, 60 * 48000) - 0.5, rate=48000)
def run(frames):
    with VideoWriter(sys.argv[1], 128, 128, crf=40, sound=sound) as writer:
        for index in range(frames):
            writer.write(picture.roll(index, 1))
run(160)
warm = peak_mib()
run(800)
print(peak_mib() - warm)
"""


@needs_peak
def test_sound_and_pictures_do_not_wait_for_each_other_in_memory(tmp_path: Path) -> None:
    (growth,) = probe(MEMORY_PROBE, str(tmp_path / "video.mp4"))
    # 640 more frames are 40 s of sound: 15 MiB as samples.
    assert growth < 3
