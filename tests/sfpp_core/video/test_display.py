"""A video is what a player shows of it: upright, in square pixels, its white white; and a file is only itself."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from sfpp_core.video.reader import VideoFileError, VideoReader
from sfpp_core.video.span import VideoSpan

HEIGHT, WIDTH, FRAMES = 32, 64, 6
CORNERS = ((230, 40, 40), (40, 200, 40), (40, 40, 220), (200, 200, 60))
"""Colours of the four quarters: upper left and right, lower left and right."""
PQ, HLG, BT2020 = 16, 18, 9


def quarters(colours: Sequence[Sequence[int]], height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    grid = np.array(colours, np.uint8).reshape(2, 2, 3)
    return grid.repeat(height // 2, 0).repeat(width // 2, 1)


def write(
    path: Path, picture: np.ndarray, *, matrix: tuple[int, ...] | None = None, ratio: Fraction | None = None
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=16, options={"crf": "1"})
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = "yuv444p"
        if matrix:
            stream.set_display_matrix(matrix)
        if ratio:
            stream.codec_context.sample_aspect_ratio = ratio
        for _ in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def shown(path: Path) -> np.ndarray:
    with VideoReader(path) as reader:
        pictures = [picture for _, picture in reader.pictures()]
        assert len(pictures) == FRAMES
        assert all(picture.shape[:2] == reader.size for picture in pictures)
        return pictures[-1]


ONE = 1 << 16


@pytest.mark.parametrize(("transposed", "sign_x", "sign_y"), [*product((False, True), (1, -1), (1, -1))])
def test_a_clip_is_turned_and_mirrored_as_its_matrix_says(
    transposed: bool, sign_x: int, sign_y: int, tmp_path: Path
) -> None:
    """By the matrix alone: a stored (x, y) goes to (a x + c y, b x + d y)."""
    a, b, c, d = (0, sign_y, sign_x, 0) if transposed else (sign_x, 0, 0, sign_y)
    matrix = (a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30)
    stored = quarters(CORNERS)
    picture = shown(write(tmp_path / "phone.mp4", stored, matrix=matrix))
    height, width = (WIDTH, HEIGHT) if transposed else (HEIGHT, WIDTH)
    assert picture.shape == (height, width, 3)
    for y, x in product((4, HEIGHT - 5), (4, WIDTH - 5)):
        to_x, to_y = a * x + c * y, b * x + d * y
        to_x, to_y = to_x + (width - 1) * (to_x < 0), to_y + (height - 1) * (to_y < 0)
        assert np.abs(picture[to_y, to_x].astype(int) - stored[y, x]).max() < 12, (y, x)


@pytest.mark.parametrize(("ratio", "width"), [(Fraction(2), 128), (Fraction(1, 2), 32), (Fraction(16, 11), 93)])
def test_pixels_are_square(ratio: Fraction, width: int, tmp_path: Path) -> None:
    picture = shown(write(tmp_path / "wide.mp4", quarters(CORNERS), ratio=ratio))
    assert picture.shape == (HEIGHT, width, 3)
    for place, colour in zip(((4, 4), (4, -5), (-5, 4), (-5, -5)), CORNERS, strict=True):
        assert np.abs(picture[place].astype(int) - colour).max() < 12


def test_a_span_of_a_turned_clip_has_the_size_that_is_seen(tmp_path: Path) -> None:
    path = write(tmp_path / "portrait.mp4", quarters(CORNERS), matrix=(0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30))
    assert VideoSpan.open(path).size == (WIDTH, HEIGHT)


def hdr(path: Path, signals: Sequence[float], transfer: int) -> Path:
    """Grey columns of these signal levels in 10 bits, BT.2020."""
    with av.open(str(path), "w") as container:
        names = {PQ: "smpte2084", HLG: "arib-std-b67"}
        told = f"crf=1:log-level=error:colorprim=bt2020:transfer={names[transfer]}:colormatrix=bt2020nc"
        stream = container.add_stream("libx265", rate=16, options={"x265-params": told})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p10le"
        luma = np.repeat(np.rint(64 + 876 * np.array(signals)).astype(np.uint16), WIDTH // len(signals))
        content = np.concatenate([np.tile(luma, HEIGHT), np.full(HEIGHT * WIDTH // 2, 512, np.uint16)]).reshape(
            HEIGHT * 3 // 2, WIDTH
        )
        for _ in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(content, format="yuv420p10le")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(("transfer", "white"), [(PQ, 0.5807), (HLG, 0.75)])
def test_white_in_hdr_is_white_and_nothing_above_it_is_lost(transfer: int, white: float, tmp_path: Path) -> None:
    """White of 203 nits (ITU-R BT.2408), its tenth and its half, and a highlight."""
    picture = shown(hdr(tmp_path / "hdr.mp4", (0.0, 0.3, white, 0.9 * white + 0.1), transfer))
    black, dark, page, highlight = (int(picture[16, 8 + 16 * number].mean()) for number in range(4))
    assert black < 4
    assert 20 < dark < 200
    assert 245 <= page < highlight <= 255
    assert np.ptp(picture[16, 40].astype(int)) <= 2, "grey stays grey"


PLAYLISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n",
    "list.ffconcat": "ffconcat version 1.0\nfile '{target}'\n",
    "list.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
    '<Representation id="0" bandwidth="1"><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "list.imf": "<AssetMap>{target}</AssetMap>",
}


@pytest.mark.parametrize("name", PLAYLISTS)
@pytest.mark.parametrize("ending", ["", ".mp4"])
def test_a_playlist_reads_no_other_file(name: str, ending: str, tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.mp4", quarters(CORNERS))
    (tmp_path / f"{name}{ending}").write_text(PLAYLISTS[name].format(target=secret))
    with pytest.raises(VideoFileError, match=f"{name}{ending} is no video that can be read"):
        VideoReader(tmp_path / f"{name}{ending}")


def test_a_gif_is_a_video(tmp_path: Path) -> None:
    pictures = [Image.fromarray(np.roll(quarters(CORNERS), 4 * number, 1)) for number in range(FRAMES)]
    pictures[0].save(tmp_path / "moving.gif", save_all=True, append_images=pictures[1:], duration=60, loop=0)
    assert shown(tmp_path / "moving.gif").shape == (HEIGHT, WIDTH, 3)


def test_tags_may_be_in_any_encoding(tmp_path: Path) -> None:
    path = write(tmp_path / "tagged.mp4", quarters(CORNERS))
    with av.open(str(path)) as given, av.open(str(tmp_path / "tags.mkv"), "w") as container:
        container.metadata["title"] = "XXXXXX"
        stream = container.add_stream_from_template(given.streams.video[0])
        for packet in given.demux():
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    content = (tmp_path / "tags.mkv").read_bytes()
    assert content.count(b"XXXXXX") == 1
    (tmp_path / "tags.mkv").write_bytes(content.replace(b"XXXXXX", "K\xf6ln \xff".encode("latin-1")))
    assert shown(tmp_path / "tags.mkv").shape == (HEIGHT, WIDTH, 3)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    for name in ("pipe.mp4", "folder.mp4"):
        with pytest.raises(VideoFileError, match=f"{name} is no file; choose a video file"):
            VideoReader(tmp_path / name)


def test_a_file_cut_short_says_so_and_not_that_it_is_not_permitted(tmp_path: Path) -> None:
    content = write(tmp_path / "whole.mp4", quarters(CORNERS)).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(VideoFileError, match=r"cut\.mp4 .* it (is|may be) cut short") as caught:
        VideoReader(tmp_path / "cut.mp4")
    assert "permitted" not in str(caught.value)
