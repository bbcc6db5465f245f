"""Judging videos while they are made, in one pass that keeps no pictures but those of a few to look at.

Pictures go in piece by piece, a measurement of every frame comes out. The core measures by reading a `VideoSpan`, and
videos are made side by side, so each video has a thread of its own, which reads what is pushed and waits for more;
OpenCV works without the interpreter's lock, so the threads use many cores where there are many. Nothing is kept of a
video but its measurements, 2 kB a frame, and of some an MP4 and a strip of pictures at the lengths that are judged.

Axes: B video, F frame, H height, W width, C colour.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np
import torch
from einops import rearrange
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from sfpp_core.files import replacing
from sfpp_core.stability.measure import FrameSeries, measure
from sfpp_core.stability.offline.judge import Damage
from sfpp_core.stability.plot import BODY_POINTS, DPI, INK, text_width, type_of
from sfpp_core.video.span import VideoSpan
from sfpp_core.video.writer import VideoWriter
from sfpp_core.wan.config import FRAMES_PER_SECOND

from ..engine.checks import require_numbers
from ..engine.metrics import to_bytes
from .figures import Ends, VideoFigures, curve_edges, drift_curves, frames_of, latent_frames_of
from .results import VideoKey, VideoRecord, length_name
from .rollouts import EvalContext, VideoMaker
from .truth import ContentFigures, PromptMetrics

PIECES_AHEAD = 4
"""Pieces of a video that may wait to be measured; whoever makes them then waits."""
WATCH_SECONDS = 1.0
"""Between looks at whether a measurement that is waited for still lives."""


class VideoCutShort(RuntimeError):
    """A video ended before it had as many frames as were announced."""


class VideoFeed:
    """A video of known length whose pictures arrive while it is read, once and in order: a `Source` of the core."""

    path: Path | None = None

    def __init__(self, name: str, num_frames: int, size: tuple[int, int]) -> None:
        """size: height and width of the pictures."""
        self.name = name
        self.size = size
        self.num_frames = num_frames
        self.duration = num_frames / FRAMES_PER_SECOND
        self._pieces: queue.Queue[np.ndarray | None] = queue.Queue(PIECES_AHEAD)

    def offer(self, piece: np.ndarray | None) -> bool:
        """The next frames, uint8 F H W C, or None for an end; False if there was no room for a while."""
        try:
            self._pieces.put(piece, timeout=WATCH_SECONDS)
        except queue.Full:
            return False
        return True

    def pictures(self, start: float, end: float, min_gap: float) -> Iterator[tuple[float, np.ndarray]]:
        """See Source. Every picture from the first on: a video that is not kept cannot be searched."""
        shown = 0
        while shown < self.num_frames:
            piece = self._pieces.get()
            if piece is None:
                raise VideoCutShort(f"{self.name} ended after {shown} of {self.num_frames} frames.")
            for picture in piece:
                yield shown / FRAMES_PER_SECOND, picture
                shown += 1

    def digest(self) -> str:
        """See Source: the name stands for the content, which is nowhere."""
        return self.name


class Measuring:
    """A context manager that measures videos side by side.

    Raises on leaving, unless another error is on its way: VideoCutShort for a video that has not come to its end.
    """

    def __init__(self, names: list[str], num_frames: int, size: tuple[int, int]) -> None:
        self._feeds = [VideoFeed(name, num_frames, size) for name in names]
        self._pool = ThreadPoolExecutor(len(names), thread_name_prefix="measure")
        self._measured: list[Future[FrameSeries]] = []

    @property
    def footages(self) -> list[VideoSpan]:
        """The videos as the core knows them."""
        return [VideoSpan(source=feed, start=0.0, end=feed.duration) for feed in self._feeds]

    def __enter__(self) -> Measuring:
        self._measured = [self._pool.submit(measure, footage) for footage in self.footages]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for feed, future in zip(self._feeds, self._measured, strict=True):
            while not future.done() and not feed.offer(None):
                pass
        self._pool.shutdown()
        if kind is None:
            self.series()

    def push(self, videos: np.ndarray) -> None:
        """The next frames of every video, uint8 B F H W C. Raises what a measurement raised."""
        for feed, future, piece in zip(self._feeds, self._measured, videos, strict=True):
            while not feed.offer(piece):
                if future.done():
                    future.result()

    def series(self) -> list[FrameSeries]:
        """The measurements of the whole videos; waits for them. Raises what a measurement raised."""
        return [future.result() for future in self._measured]


FOLDER: Final = "films"
_PICTURE_PX, _HEAD_PX, _MARGIN_PX = 128, 26, 8


def strip_path(folder: Path, key: VideoKey) -> Path:
    """Return where the pictures of a video are kept."""
    return folder / FOLDER / f"p{key.prompt:03d}_{key.take}_{key.arm}.png"


class Keepsake:
    """A context manager that takes a video's pictures as they are made and leaves an MP4 and a strip behind."""

    def __init__(self, folder: Path, key: VideoKey, lengths: list[float], size: tuple[int, int]) -> None:
        self._path = strip_path(folder, key)
        self._marks = [0, *(frames_of(length) - 1 for length in lengths)]
        self._size = size
        self._kept: list[np.ndarray] = []
        self._seen = 0
        self._resources = ExitStack()
        self._writer: VideoWriter | None = None

    def __enter__(self) -> Keepsake:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        height, width = self._size
        self._writer = self._resources.enter_context(VideoWriter(self._path.with_suffix(".mp4"), width, height))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.__exit__(kind, error, trace)
        if kind is None:
            with replacing(self._path) as temporary:
                Image.fromarray(np.concatenate(self._kept, axis=1)).save(temporary)

    def see(self, pictures: np.ndarray) -> None:
        """The next frames, uint8 F H W C."""
        # Colours are converted by matrix products, which autocast would round to half precision.
        with torch.autocast("cpu", enabled=False):
            self._writer.write(torch.from_numpy(pictures))
        while len(self._kept) < len(self._marks) and self._marks[len(self._kept)] < self._seen + len(pictures):
            self._kept.append(pictures[self._marks[len(self._kept)] - self._seen].copy())
        self._seen += len(pictures)


def write_sheet(strips: dict[str, Path], lengths: list[float], title: str, path: Path) -> None:
    """One picture of the same video in several arms: a row an arm, a column for the start and each length.

    strips: the strip of each arm; a shorter one leaves the columns that it does not reach empty.
    """
    label = 2 * _MARGIN_PX + max(text_width(arm, BODY_POINTS) for arm in strips)
    width, height = label + _PICTURE_PX * (len(lengths) + 1), 2 * _HEAD_PX + _PICTURE_PX * len(strips)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    figure.text(_MARGIN_PX / width, 1 - 0.65 * _HEAD_PX / height, title, **type_of(BODY_POINTS, bold=True))
    for column, text in enumerate(["0 s", *(f"{length_name(length)} s" for length in lengths)]):
        left = label + (column + 0.5) * _PICTURE_PX
        figure.text(left / width, 1 - 1.7 * _HEAD_PX / height, text, ha="center", **type_of(BODY_POINTS))
    for row, (arm, strip) in enumerate(strips.items()):
        with Image.open(strip) as opened:
            pictures = np.asarray(opened.convert("RGB"))
        share = pictures.shape[1] / pictures.shape[0] * _PICTURE_PX / width
        bottom = 1 - (2 * _HEAD_PX + (row + 1) * _PICTURE_PX) / height
        axes = figure.add_axes((label / width, bottom, share, _PICTURE_PX / height))
        axes.imshow(pictures, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        middle = bottom + 0.5 * _PICTURE_PX / height
        figure.text(_MARGIN_PX / width, middle, arm, va="center", **type_of(BODY_POINTS, color=INK))
    canvas = FigureCanvasAgg(figure)
    with replacing(path) as temporary:
        canvas.print_png(temporary)


Content = dict[float, list[tuple[ContentFigures, list[float]]]]
"""By length, what the prompt_metrics says of each video."""
Measured = tuple[VideoSpan, FrameSeries]
"""A video that is over, and what was measured of every frame."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Session:
    """The parts that judging takes, the same for all videos of an arm."""

    maker: VideoMaker
    context: EvalContext
    prompt_metrics: PromptMetrics | None
    lengths: list[float]
    """Seconds, rising."""
    folder: Path
    prompts_kept: int
    """Of the first take of so many prompts, MP4 and strip are kept."""
    unheeded: list[Damage]
    """Kinds of damage that the judge of Visual Stability lets pass."""


def judge_videos(session: Session, videos: dict[VideoKey, str]) -> list[VideoRecord]:
    """Make videos together, as many as are given with their identities, and judge each at every length.

    Raises:
        NotNumbers: one of them holds a NaN or an infinity.
    """
    started = time.monotonic()
    keys = list(videos)
    measured, content = _watch(session, keys)
    seconds = (time.monotonic() - started) / len(keys)
    return [
        _record(session, key, videos[key], measured[index], content, index, seconds) for index, key in enumerate(keys)
    ]


def _watch(session: Session, keys: list[VideoKey]) -> tuple[list[Measured], Content]:
    """Measurements of every frame of the videos, and what the prompt_metrics says of their ends."""
    longest = session.lengths[-1]
    num_frames, size = frames_of(longest), (session.context.height, session.context.width)
    ends, content = Ends(session.lengths), {}
    with ExitStack() as resources:
        measuring = resources.enter_context(
            Measuring([f"{key.arm} {key.prompt}/{key.take}" for key in keys], num_frames, size)
        )
        artifacts = {
            index: resources.enter_context(Keepsake(session.folder, key, session.lengths, size))
            for index, key in enumerate(keys)
            if key.take == 0 and key.prompt < session.prompts_kept
        }
        for piece in _cut(session.maker.video(keys, latent_frames_of(longest)), num_frames):
            for key, video in zip(keys, piece, strict=True):
                require_numbers(f"{key.arm}, prompt {key.prompt}, take {key.take}: its pictures", video)
            pictures = _pictures(piece)
            measuring.push(pictures)
            for index, artifact in artifacts.items():
                artifact.see(pictures[index])
            for length, window in ends.see(piece):
                if session.prompt_metrics:
                    content[length] = session.prompt_metrics.judge(window, [key.prompt for key in keys])
        return list(zip(measuring.footages, measuring.series(), strict=True)), content


def _record(
    session: Session,
    key: VideoKey,
    identity: str,
    measured: Measured,
    content: Content,
    index: int,
    seconds: float,
) -> VideoRecord:
    text = session.context.conditioning.prompts[key.prompt]
    figures, features = {}, {}
    for length in session.lengths:
        name = length_name(length)
        figures[name] = asdict(VideoFigures.of(*measured, length, text, session.unheeded))
        if length in content:
            of_prompt, features[name] = content[length][index]
            figures[name] |= asdict(of_prompt)
    return VideoRecord(
        key=key,
        identity=identity,
        text=text,
        seed=session.context.video_seed(key),
        figures=figures,
        features=features,
        curves=drift_curves(measured[1], curve_edges(session.lengths[-1])),
        seconds=round(seconds, 2),
    )


def _cut(pieces: Iterator[Tensor], num_frames: int) -> Iterator[Tensor]:
    """The first frames of videos in pieces; whole chunks may be more than what was asked for."""
    left = num_frames
    for piece in pieces:
        yield piece[:, :, :left].float()
        left -= piece.shape[2]
        if left <= 0:
            return


def _pictures(piece: Tensor) -> np.ndarray:
    """B 3 F H W in [-1, 1] to uint8 B F H W C."""
    return to_bytes(rearrange(piece, "b c f h w -> b f h w c") / 2 + 0.5).cpu().numpy()


def in_batches(keys: Sequence[VideoKey], batch: int) -> list[list[VideoKey]]:
    """Videos that are made together."""
    return [list(keys[first : first + batch]) for first in range(0, len(keys), batch)]
