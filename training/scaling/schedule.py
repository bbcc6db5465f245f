"""How many network calls a window takes, by method, as `self_forcing` makes them; means over the windows of a run.

A chunk is denoised in the student's steps and then passed once more, clean, into the cache when the next one needs it.
The student's gradient plays the window's chunks again, one at a time: a pass with a gradient for each that has one, and
the clean pass between them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..self_forcing.rollouts import shared_frames, windows_in_video
from ..self_forcing.windows import Window, WindowConfig
from .config import ScalingConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Calls:
    """Passes of the student by the latent frames in its cache, and windows that are made valid clips. Means are
    fractions of calls.
    """

    rolled: Counter[int] = field(default_factory=Counter)
    """No gradient: the video up to the window's end."""
    replayed: Counter[int] = field(default_factory=Counter)
    """No gradient: clean passes when the window is played again."""
    trained: Counter[int] = field(default_factory=Counter)
    """With a gradient."""
    first_frames: Counter[int] = field(default_factory=Counter)
    """Windows from mid-video, made to begin as a video does, by their latent frames of warm-up."""
    texts: float = 0.0
    """Times that a prompt's keys and values are computed for the chunks that are rolled."""


def restarting(config: ScalingConfig, window: WindowConfig) -> Calls:
    """Videos rolled from their beginning to a window that lies anywhere in them; with N = K that is Self-Forcing."""
    starts = range(0, window.rollout_frames - window.frames + 1, config.rollout.chunk)
    first = window.first_window_probability
    shares = [(1 - first) / len(starts) + (first if start == 0 else 0) for start in starts]
    return _mean((share, _restarted(config, start)) for share, start in zip(shares, starts, strict=True))


def streaming(config: ScalingConfig, window: WindowConfig) -> Calls:
    """Videos that go on by a window at a time and begin anew when the next would pass their full length; beginnings of
    other videos are judged between them, as often as the configuration says.
    """
    chunk, first = config.rollout.chunk, window.first_window_probability
    shared, number = shared_frames(window, chunk), windows_in_video(window, chunk)
    starts = [index * (window.frames - shared) for index in range(number)]
    windows = [((1 - first) / number, _gone_on(config, start, start + shared if start else 0)) for start in starts]
    return _mean([(first, _restarted(config, 0)), *windows])


def _restarted(config: ScalingConfig, start: int) -> Calls:
    """The window that begins at latent frame `start` of a video of its own. Chunks that are encoded anew as a whole
    have no gradient.
    """
    chunks = _window_chunks(config, start)
    masked = config.window.masked_frames // config.rollout.chunk if start else 0
    # What comes before the window is a rollout of its own.
    calls = _played_again(config, chunks, chunks[masked:], texts=2 if start else 1)
    _roll(config, calls, range(chunks.stop), enters_cache=range(chunks.stop - 1))
    return _as_clip(config, calls, start)


def _gone_on(config: ScalingConfig, start: int, first_new: int) -> Calls:
    """The window at latent frame `start` of a video that exists up to frame `first_new` and will go on."""
    new = _window_chunks(config, start)[(first_new - start) // config.rollout.chunk :]
    calls = _played_again(config, new, new, texts=1)
    _roll(config, calls, new, enters_cache=new)
    return _as_clip(config, calls, start)


def _window_chunks(config: ScalingConfig, start: int) -> range:
    first = start // config.rollout.chunk
    return range(first, first + config.window_chunks)


def _roll(config: ScalingConfig, calls: Calls, chunks: range, *, enters_cache: range) -> None:
    for chunk in chunks:
        calls.rolled[config.past_frames(chunk)] += config.denoising_steps(chunk) + (chunk in enters_cache)


def _played_again(config: ScalingConfig, chunks: range, with_gradient: range, *, texts: int) -> Calls:
    return Calls(
        texts=texts,
        replayed=Counter(config.past_frames(chunk) for chunk in chunks[:-1]),
        trained=Counter(config.past_frames(chunk) for chunk in with_gradient),
    )


def _as_clip(config: ScalingConfig, calls: Calls, start: int) -> Calls:
    if start:
        calls.first_frames[Window(start=start, frames=config.window.frames).warmup] += 1
    return calls


def _mean(windows: Iterable[tuple[float, Calls]]) -> Calls:
    """Mean numbers of calls, each window with its share."""
    weighted = list(windows)
    mean = Calls(texts=sum(share * calls.texts for share, calls in weighted))
    for share, calls in weighted:
        for name in ("rolled", "replayed", "trained", "first_frames"):
            for key, number in getattr(calls, name).items():
                getattr(mean, name)[key] += share * number
    return mean
