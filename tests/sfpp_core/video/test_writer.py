"""Videos go into files: true colours, tags, equal bytes, constant memory, and never half a file."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
from torch import Tensor

from sfpp_core.video.codecs import CODECS, H265, VideoCodec
from sfpp_core.video.reader import VideoReader
from sfpp_core.video.writer import VideoWriter, rgb_to_yuv420
from tests.helpers.memory import ROOT, needs_peak, probe
from tests.helpers.small_disk import small_disk
from tests.helpers.videos import HEIGHT, WIDTH, moving_square, names, read, write


def test_a_video_that_is_whole_stays_where_there_is_no_room_for_its_copy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path, megabytes=1):
        frames = torch.rand(24, 64, 64, 3, generator=torch.Generator().manual_seed(0))
        with VideoWriter(tmp_path / "video.mp4", 64, 64, crf=0, metadata={"prompt": "{}"}) as writer:
            for _ in range(8):
                writer.write(frames)
                taken = sum(path.stat().st_size for path in tmp_path.iterdir())
                if taken > 6e5:
                    break
        assert "its index could not be put in front" in caplog.text
        assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]
        with av.open(tmp_path / "video.mp4") as video:
            assert video.metadata["prompt"] == "{}"
            assert sum(1 for _ in video.decode(video=0)) == writer.num_frames


def test_frames_come_back_in_order_and_number(tmp_path: Path) -> None:
    video = moving_square(37)
    again = read(write(tmp_path / "video.mp4", video))
    assert again.shape == video.shape and again.dtype == torch.float32
    assert again.min() >= 0 and again.max() <= 1
    errors = (again[:, None] - video[None]).square().mean(dim=(2, 3, 4))
    # 22 frames on, the square is back where it was: the nearest frame of the same place counts.
    assert all(errors[index].argmin() % 24 == index % 24 for index in range(37))
    assert errors.diagonal().max() < 1e-3


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_colours_are_kept(tmp_path: Path, codec: VideoCodec) -> None:
    colours = torch.tensor(((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (0, 0, 0), (0.5, 0.5, 0.5), (1, 0.5, 0)))
    video = colours.repeat_interleave(16, dim=0).expand(3, 16, -1, 3)
    again = read(write(tmp_path / "video.mp4", video, codec=codec))
    assert (again[:, 4:12, 8::16] - colours).abs().max() < 0.02
    with av.open(str(tmp_path / "video.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (1, 1, 6, 1)
        # As ComfyUI reads files, PyAV before 17 included.
        stock = torch.from_numpy(next(container.decode(video=0)).to_ndarray(format="rgb24")) / 255
    assert (stock[4:12, 8::16] - colours).abs().max() < 0.02


def test_planes_of_known_colours() -> None:
    """Against the table of BT.601 8-bit codes for full-intensity bars."""
    bars = {"white": (235, 128, 128), "yellow": (210, 16, 146), "cyan": (170, 166, 16), "green": (145, 54, 34)}
    bars |= {"magenta": (106, 202, 222), "red": (81, 90, 240), "blue": (41, 240, 110), "black": (16, 128, 128)}
    rgb = {"white": (1, 1, 1), "yellow": (1, 1, 0), "cyan": (0, 1, 1), "green": (0, 1, 0)}
    rgb |= {"magenta": (1, 0, 1), "red": (1, 0, 0), "blue": (0, 0, 1), "black": (0, 0, 0)}
    for name, (luma, u, v) in bars.items():
        planes = rgb_to_yuv420(torch.tensor(rgb[name], dtype=torch.float32).expand(4, 8, 3))
        assert planes.shape == (6, 8) and planes.dtype == torch.uint8
        assert planes[:4].unique().tolist() == [luma]
        assert (planes[4].unique().tolist(), planes[5].unique().tolist()) == ([u], [v]), name


def test_bytes_and_floats_make_the_same_video(tmp_path: Path) -> None:
    levels = (moving_square(5) * 255).round()
    as_float = write(tmp_path / "float.mp4", levels / 255).read_bytes()
    assert write(tmp_path / "bytes.mp4", levels.to(torch.uint8)).read_bytes() == as_float
    assert write(tmp_path / "wide.mp4", levels.double() / 255).read_bytes() == as_float


def test_equal_frames_give_equal_bytes_however_they_arrive(tmp_path: Path) -> None:
    video, tags = moving_square(20), {"workflow": "{}"}
    whole = write(tmp_path / "whole.mp4", video, metadata=tags).read_bytes()
    with VideoWriter(tmp_path / "pieces.mp4", WIDTH, HEIGHT, metadata=tags) as writer:
        for piece in video.split((1, 0, 4, 15)):
            writer.write(piece)
        assert writer.num_frames == 20
    assert (tmp_path / "pieces.mp4").read_bytes() == whole
    assert write(tmp_path / "other.mp4", video.flip(0), metadata=tags).read_bytes() != whole


def digest_amid_old_memory(path: Path, byte: int, codec: str) -> str:
    """Of a small video, made where freed memory is full of `byte`: what reads memory it never wrote, shows."""
    junk = [torch.full((size,), byte, dtype=torch.uint8) for size in range(1000, 200_000, 1000)]
    del junk
    return hashlib.sha256(write(path, moving_square(5), codec=CODECS[codec]).read_bytes()).hexdigest()


ON_ONE_CORE = """
import os, pathlib, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from tests.sfpp_core.video.test_writer import digest_amid_old_memory
print(digest_amid_old_memory(pathlib.Path(sys.argv[1]), 170, sys.argv[2]))
"""


@pytest.mark.parametrize("codec", CODECS)
def test_equal_frames_give_equal_bytes_whatever_was_in_memory_and_in_another_process(
    tmp_path: Path, codec: str
) -> None:
    digests = {digest_amid_old_memory(tmp_path / "here.mp4", byte, codec) for byte in (0, 85, 255)}
    command = [sys.executable, "-c", ON_ONE_CORE, str(tmp_path / "there.mp4"), codec]
    there = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120).stdout.strip()
    assert digests == {there}


def test_tags_and_index_come_first(tmp_path: Path) -> None:
    tags = {"workflow": '{"title": "gr\u00fc\u00df \u6d77"}', "prompt": '{"1": {"class_type": "SFPPSampler"}}'}
    path = write(tmp_path / "video.mp4", moving_square(3), metadata=tags)
    with VideoReader(path) as reader:
        assert {name: reader.metadata[name] for name in tags} == tags
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"SFPPSampler") < content.index(b"mdat")


@pytest.mark.parametrize("fps", (16, Fraction(24000, 1001), Fraction(25, 2)))
def test_frame_rates_are_exact(tmp_path: Path, fps: Fraction | int) -> None:
    path = write(tmp_path / "video.mp4", moving_square(30), fps=fps)
    with VideoReader(path) as reader:
        assert reader.fps == fps
        assert reader.size == (HEIGHT, WIDTH)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt, stream.frames) == ("h264", "yuv420p", 30)
        assert stream.duration * stream.time_base == 30 / Fraction(fps)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_a_lower_crf_is_larger_and_truer(tmp_path: Path, codec: VideoCodec) -> None:
    noise = torch.rand(4, HEIGHT, WIDTH, 1, generator=torch.Generator().manual_seed(0)).repeat(1, 1, 1, 3)
    fine, coarse = (write(tmp_path / f"{crf}.mp4", noise, crf=crf, codec=codec) for crf in (1, 40))
    assert fine.stat().st_size > 3 * coarse.stat().st_size
    assert (read(fine) - noise).abs().mean() < 0.25 * (read(coarse) - noise).abs().mean()


@pytest.mark.parametrize("error", (KeyboardInterrupt, RuntimeError))
def test_an_interrupt_leaves_nothing_behind_and_the_old_video_alone(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"the old video")
    with pytest.raises(error), VideoWriter(path, WIDTH, HEIGHT) as writer:
        writer.write(moving_square(5))
        assert len(names(tmp_path)) > 1
        raise error
    assert names(tmp_path) == ["video.mp4"]
    assert path.read_bytes() == b"the old video"


def test_a_finished_video_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"the old video")
    write(path, moving_square(2))
    assert names(tmp_path) == ["video.mp4"]
    assert read(path).shape[0] == 2


FULL_DISK = """
import resource, signal, sys, torch
from sfpp_core.video.writer import VideoWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
with VideoWriter(sys.argv[1], 256, 256, crf=0) as writer:
    for _ in range(100):
        writer.write(torch.rand(1, 256, 256, 3))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="this system cannot limit the size of a file")
def test_a_full_disk_is_an_error_that_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "video.mp4")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert "File too large" in result.stderr.splitlines()[-1]
    assert names(tmp_path) == []


MEMORY_PROBE = """
import sys, torch
from sfpp_core.video.reader import VideoReader
from sfpp_core.video.writer import VideoWriter
from tests.helpers.memory import peak_mib
picture = torch.rand(1, 256, 256, 3)
def run(path, frames):
    with VideoWriter(path, 256, 256, crf=40) as writer:
        for index in range(frames):
            writer.write(picture.roll(index, 1))
    with VideoReader(path) as reader:
        assert sum(chunk.shape[0] for chunk in reader.chunks(4)) == frames
run(sys.argv[1], 80)  # beyond the frames that x264 looks ahead
warm = peak_mib()
run(sys.argv[1], 210)
print(peak_mib() - warm)
"""


@needs_peak
def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    (growth,) = probe(MEMORY_PROBE, str(tmp_path / "video.mp4"))
    # 130 more frames are 100 MiB as tensors and 25 MiB as bytes.
    assert growth < 3


@pytest.mark.parametrize(
    "arguments, message",
    (
        ({"width": 63}, "width is 63; .* even number, .* Try 64."),
        ({"height": 0}, "height is 0; .* Try 2."),
        ({"width": 8, "codec": H265}, "width is 8; H.265 .* 16 or more. Try 16."),
        ({"made_fps": -1}, "made_fps is -1; it must be above 0."),
        ({"fps": 0}, "fps is 0; it must be above 0."),
        ({"crf": 52}, "crf is 52; it goes from 0"),
    ),
)
def test_impossible_videos_are_refused_before_a_file_is_made(
    tmp_path: Path, arguments: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        VideoWriter(tmp_path / "video.mp4", **{"width": WIDTH, "height": HEIGHT, **arguments})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "frames, message",
    (
        (torch.zeros(1, HEIGHT, WIDTH + 2, 3), r"are \(1, 48, 66, 3\); this video takes \(number, 48, 64, 3\)"),
        (torch.zeros(HEIGHT, WIDTH, 3), "this video takes"),
        (torch.zeros(1, HEIGHT, WIDTH, 3, dtype=torch.int64), r"torch.int64; a video takes floating point"),
        (torch.full((1, HEIGHT, WIDTH, 3), torch.nan), r"frame 2 holds non-finite values"),
    ),
)
def test_frames_that_do_not_fit_are_refused(tmp_path: Path, frames: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message), VideoWriter(tmp_path / "video.mp4", WIDTH, HEIGHT) as writer:
        writer.write(moving_square(2))
        writer.write(frames)
    assert names(tmp_path) == []


def test_values_beyond_the_range_are_clamped(tmp_path: Path) -> None:
    video = moving_square(3)
    beyond = torch.where(video == 1.0, 7.0, torch.where(video == 0.0, -3.0, video))
    assert write(tmp_path / "a.mp4", beyond).read_bytes() == write(tmp_path / "b.mp4", video).read_bytes()


def test_a_video_without_frames_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="no frames were given for video.mp4"),
        VideoWriter(tmp_path / "video.mp4", WIDTH, HEIGHT),
    ):
        pass
    assert names(tmp_path) == []


def test_a_writer_works_in_its_block_only_and_a_folder_must_exist(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "video.mp4", WIDTH, HEIGHT)
    with pytest.raises(RuntimeError, match="inside the writer's `with` block"):
        writer.write(moving_square(1))
    with writer:
        writer.write(moving_square(1))
    with pytest.raises(RuntimeError, match="inside the writer's `with` block"):
        writer.write(moving_square(1))
    with pytest.raises(RuntimeError, match="a writer of its own"), writer:
        pass
    assert read(tmp_path / "video.mp4").shape[0] == 1
    with pytest.raises(FileNotFoundError), VideoWriter(tmp_path / "none" / "video.mp4", WIDTH, HEIGHT):
        pass
