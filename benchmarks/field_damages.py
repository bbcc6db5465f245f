"""Ten damages at five strengths, as users meet them: in light or in display values, sudden or creeping.

They were written without a look at the offline judge or at its tests. Frames are float32 T H W C in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.float32]
NUM_STRENGTHS: Final = 5
NUM_WAYS: Final = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Video:
    """A video that is to be damaged, and how."""

    frames: Frames
    fps: float
    onset: float
    """Seconds from the start to the first damage."""
    strength: int
    """0 (just seen) to 4."""
    way: int
    """0 to 3: even ways creep up until the end, odd ones are there within a quarter of a second."""
    seed: int
    other: Frames
    """Footage to cut to, as large."""

    @property
    def first(self) -> int:
        """The first damaged frame."""
        return int(self.onset * self.fps)

    @property
    def rng(self) -> np.random.Generator:
        """The same for the same seed."""
        return np.random.default_rng(self.seed)

    def amounts(self) -> NDArray[np.float64]:
        """[T] how much of the damage each frame has, 0..1."""
        time = np.arange(len(self.frames)) / self.fps
        if self.way % 2 == 0:
            return np.clip(1.15 * (time - self.onset) / (len(self.frames) / self.fps - self.onset), 0, 1)
        return (time >= self.onset) * np.clip((time - self.onset) / 0.25 + 0.25, 0, 1)

    def changed(self, change: Callable[[Frames, float], NDArray[np.floating]]) -> Frames:
        """Each frame after `change(frame, amount)`, clipped; those with no amount as they are."""
        pairs = zip(self.frames, self.amounts(), strict=True)
        return np.stack([np.clip(change(x, a), 0, 1).astype(np.float32) if a > 0 else x for x, a in pairs])


def linear(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Display values to light (IEC 61966-2-1)."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def display(light: NDArray[np.floating]) -> NDArray[np.floating]:
    """Light to display values; what is brighter than white is white."""
    light = light.clip(0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)


def over_exposure(video: Video) -> Frames:
    """The aperture opens, or a white veil."""
    stops = (0.5, 0.9, 1.4, 2.0, 2.8)[video.strength]
    if video.way < 2:
        return video.changed(lambda x, a: display(linear(x) * 2 ** (stops * a)))
    return video.changed(lambda x, a: x + (1 - x) * 0.275 * stops * a)


def darkening(video: Video) -> Frames:
    """The aperture closes, or gamma."""
    stops = (0.6, 1.1, 1.8, 2.6, 4.0)[video.strength]
    if video.way < 2:
        return video.changed(lambda x, a: display(linear(x) * 2 ** (-stops * a)))
    return video.changed(lambda x, a: x ** (1 + 0.8 * stops * a))


def contrast_loss(video: Video) -> Frames:
    """Towards the picture's own mean, or towards grey."""
    loss = (0.2, 0.35, 0.5, 0.65, 0.82)[video.strength]
    if video.way < 2:
        return video.changed(lambda x, a: x.mean() + (x - x.mean()) * (1 - loss * a))
    return video.changed(lambda x, a: 0.5 + (x - 0.5) * (1 - loss * a))


def colour_cast(video: Video) -> Frames:
    """White balance drifts, or a tint is added."""
    amount = (0.08, 0.15, 0.25, 0.38, 0.55)[video.strength]
    tints = ((1, 0, -0.8), (-0.7, 0.1, 1), (0.6, -0.9, 0.7), (0.9, 0.4, -1))
    tint = np.array(tints[video.way], np.float32)
    if video.way % 2 == 0:
        return video.changed(lambda x, a: display(linear(x) * 2 ** (1.6 * amount * a * tint)))
    return video.changed(lambda x, a: x + 0.5 * (tint - tint.mean()) * amount * a)


def blur(video: Video) -> Frames:
    """Out of focus, or made small and large again."""
    height, width = video.frames.shape[1:3]
    sigma = (0.003, 0.006, 0.011, 0.018, 0.03)[video.strength] * height
    if video.way < 2:
        return video.changed(lambda x, a: cv2.GaussianBlur(x, (0, 0), max(sigma * a, 0.05)))

    def through_a_small_picture(x: Frames, a: float) -> Frames:
        scale = 1 / (1 + 1.6 * sigma * a)
        size = max(2, round(width * scale)), max(2, round(height * scale))
        return cv2.resize(cv2.resize(x, size, interpolation=cv2.INTER_AREA), (width, height), cv2.INTER_CUBIC)

    return video.changed(through_a_small_picture)


def freeze(video: Video) -> Frames:
    """The picture stands while time goes on, or the video waits and then goes on."""
    total, first = len(video.frames), video.first
    length = max(2, int((total - first - 1) * (0.15, 0.3, 0.5, 0.75, 1.0)[video.strength]))
    shown = np.arange(total)
    if video.way % 2 == 0:
        shown[first : first + length] = first
    else:
        shown[first:] = np.maximum(shown[first:] - length, first)
    return video.frames[shown]


def flicker(video: Video) -> Frames:
    """Brightness goes up and down: quickly, at random, every other pair of frames, slowly."""
    depth = (0.025, 0.05, 0.1, 0.18, 0.3)[video.strength]
    frames = np.arange(len(video.frames))
    time = frames / video.fps
    waves = (
        np.sin(2 * np.pi * 5.3 * time),
        video.rng.uniform(-1.4, 1.4, len(frames)),
        np.where(frames // 2 % 2, 1.0, -1.0),
        np.sin(2 * np.pi * 3.1 * time),
    )
    gain = 1 + depth * waves[video.way] * (time >= video.onset)
    return np.clip(video.frames * gain[:, None, None, None], 0, 1).astype(np.float32)


def noise(video: Video) -> Frames:
    """Grain of each pixel and channel, or coarser."""
    rng, height, width = video.rng, *video.frames.shape[1:3]
    deviation = (0.02, 0.04, 0.08, 0.16, 0.32)[video.strength]
    if video.way < 2:
        return video.changed(lambda x, a: x + rng.normal(0, deviation * a, x.shape))
    small = (2 * height // 3, 2 * width // 3, 3)
    return video.changed(lambda x, a: x + cv2.resize(rng.normal(0, 1.3 * deviation * a, small), (width, height)))


def cuts(video: Video) -> Frames:
    """One to eight cuts, evenly over the rest, to other footage and back."""
    total, count = len(video.frames), (1, 2, 3, 5, 8)[video.strength]
    edges = [*np.linspace(video.first, total, count + 1).astype(int)[:count], total]
    out = video.frames.copy()
    for number in range(0, count, 2):
        length = edges[number + 1] - edges[number]
        out[edges[number] : edges[number + 1]] = video.other[(np.arange(length) + 7 * number) % len(video.other)]
    return out


def loop(video: Video) -> Frames:
    """Return what was shown last comes again and again."""
    total, first = len(video.frames), video.first
    length = int((total - first) * (0.2, 0.4, 0.6, 0.8, 1.0)[video.strength])
    period = int(min(video.onset, (1.2, 2.0)[video.way % 2]) * video.fps)
    shown = np.arange(total)
    shown[first : first + length] = first - period + np.arange(length) % period
    return video.frames[shown]


DAMAGES: Final[dict[str, Callable[[Video], Frames]]] = {
    "over-exposure": over_exposure,
    "darkening": darkening,
    "contrast loss": contrast_loss,
    "colour cast": colour_cast,
    "blur": blur,
    "freeze": freeze,
    "flicker": flicker,
    "noise": noise,
    "cut": cuts,
    "loop": loop,
}
