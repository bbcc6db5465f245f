"""Damages to undamaged frames, each at a strength from 0 to 1, each in two implementations.

`DESIGNED` were at hand when the offline judge was made; `HELD_OUT` check that it answers to damages and not to these
programs. Frames are uint8 H W C arrays; a damage gives as many as it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

Frames = Sequence[np.ndarray]
Damage = Callable[[Frames, float, float], list[np.ndarray]]
"""From frames, their rate, and the strength."""


def _each(frames: Frames, onset: float, ramped: bool, change: Callable[[np.ndarray, float, int], np.ndarray]) -> list:
    """Apply `change(picture in 0..1, amount 0..1, index)` from the share `onset` of the frames on."""
    first = int(onset * len(frames))
    out = list(frames[:first])
    for index in range(first, len(frames)):
        amount = (index - first + 1) / (len(frames) - first) if ramped else 1.0
        changed = change(frames[index].astype(np.float32) / 255, amount, index)
        out.append((np.clip(changed, 0, 1) * 255 + 0.5).astype(np.uint8))
    return out


def gain_up(frames: Frames, fps: float, s: float) -> list[np.ndarray]:
    return _each(frames, 0.5, True, lambda x, a, i: x * (1 + 2 * s * a))


def gamma_and_offset_up(frames: Frames, fps: float, s: float) -> list[np.ndarray]:
    return _each(frames, 0.0, True, lambda x, a, i: x ** (1 / (1 + s * a)) + 0.3 * s * a)


def gain_down(frames: Frames, fps: float, s: float) -> list[np.ndarray]:
    return _each(frames, 0.5, True, lambda x, a, i: x * (1 - 0.9 * s * a))


def gamma_down(frames: Frames, fps: float, s: float) -> list[np.ndarray]:
    return _each(frames, 0.0, True, lambda x, a, i: x ** (1 + 2.5 * s * a))


def towards_the_mean(frames: Frames, fps: float, s: float) -> list[np.ndarray]:
    return _each(frames, 0.5, True, lambda x, a, i: x.mean() + (x - x.mean()) * (1 - 0.9 * s * a))


def grey_veil(frames: Frames, fps: float, s: float) -> list[np.ndarray]:
    return _each(frames, 0.35, False, lambda x, a, i: x * (1 - 0.8 * s) + 0.55 * 0.8 * s)


def warm_gains(frames: Frames, fps: float, s: float) -> list[np.ndarray]:
    return _each(frames, 0.5, True, lambda x, a, i: x * (1 + s * a * np.array((0.5, 0.0, -0.5), np.float32)))


def green_tint(frames: Frames, fps: float, s: float) -> list[np.ndarray]:
    return _each(frames, 0.35, False, lambda x, a, i: x + s * np.array((-0.08, 0.12, -0.08), np.float32))


def gaussian_blur(frames: Frames, fps: float, s: float) -> list[np.ndarray]:
    sigma = max(2.0, frames[0].shape[0] / 80)
    return _each(frames, 0.5, True, lambda x, a, i: cv2.GaussianBlur(x, (0, 0), max(0.05, sigma * s * a)))


def shrink_and_grow(frames: Frames, fps: float, s: float) -> list[np.ndarray]:
    height, width = frames[0].shape[:2]

    def change(x: np.ndarray, a: float, i: int) -> np.ndarray:
        scale = 1 / (1 + 5 * s * a)
        small = cv2.resize(x, (max(1, int(width * scale)), max(1, int(height * scale))), interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)

    return _each(frames, 0.0, True, change)


def freeze_in_the_middle(frames: Frames, fps: float, s: float) -> list[np.ndarray]:
    first, length = int(0.4 * len(frames)), int(0.4 * s * len(frames))
    return [frames[first if first <= index < first + length else index] for index in range(len(frames))]


def freeze_to_the_end(frames: Frames, fps: float, s: float) -> list[np.ndarray]:
    last = int((1 - 0.6 * s) * len(frames))
    return [frames[min(index, last)] for index in range(len(frames))]


def alternate_gain(frames: Frames, fps: float, s: float) -> list[np.ndarray]:
    return _each(frames, 0.3, False, lambda x, a, i: x * (1 + 0.2 * s * (-1) ** i))


def pulsing_offset(frames: Frames, fps: float, s: float) -> list[np.ndarray]:
    return _each(frames, 0.5, False, lambda x, a, i: x + 0.1 * s * np.sin(2 * np.pi * 3.3 * i / fps))


def grain(frames: Frames, fps: float, s: float) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return _each(frames, 0.5, True, lambda x, a, i: x + rng.normal(0, 0.25 * s * a, x.shape))


def salt_and_pepper(frames: Frames, fps: float, s: float) -> list[np.ndarray]:
    rng = np.random.default_rng(1)

    def change(x: np.ndarray, a: float, i: int) -> np.ndarray:
        hit = rng.random(x.shape[:2]) < 0.2 * s * a
        return np.where(hit[..., None], (rng.random(x.shape[:2]) < 0.5)[..., None].astype(np.float32), x)

    return _each(frames, 0.0, True, change)


def other_scene(frames: Frames, fps: float, s: float) -> list[np.ndarray]:
    """From the middle on another video shows through: this one on its head, in other colours."""
    return _each(frames, 0.5, False, lambda x, a, i: (1 - s) * x + s * x[::-1, :, ::-1])


def mirrored_shots(frames: Frames, fps: float, s: float) -> list[np.ndarray]:
    """Cuts to the mirrored video and back: up to ten, evenly spaced."""
    cuts = round(10 * s)
    return [x[:, ::-1] if (index * (cuts + 1) // len(frames)) % 2 else x for index, x in enumerate(frames)]


def loop_in_the_middle(frames: Frames, fps: float, s: float) -> list[np.ndarray]:
    """Two seconds from before the middle come again and again, for up to half of the video."""
    first, period, length = len(frames) // 2, int(2 * fps), int(0.5 * s * len(frames))
    out = list(frames)
    for index in range(length):
        out[first + index] = frames[first - period + index % period]
    return out


def loop_from_the_start(frames: Frames, fps: float, s: float) -> list[np.ndarray]:
    """The video begins again after 40 % of it, at most five seconds, as often as fits into the share 0.6 s."""
    period = min(int(0.4 * len(frames)), int(5 * fps))
    out = list(frames)
    for index in range(period, min(len(frames), period + int(0.6 * s * len(frames)))):
        out[index] = frames[index % period]
    return out


DESIGNED: dict[str, Damage] = {
    "over-exposure": gain_up,
    "darkening": gain_down,
    "contrast loss": towards_the_mean,
    "colour cast": warm_gains,
    "blur": gaussian_blur,
    "freeze": freeze_in_the_middle,
    "flicker": alternate_gain,
    "noise": grain,
    "cut": other_scene,
    "loop": loop_in_the_middle,
}
HELD_OUT: dict[str, Damage] = {
    "over-exposure": gamma_and_offset_up,
    "darkening": gamma_down,
    "contrast loss": grey_veil,
    "colour cast": green_tint,
    "blur": shrink_and_grow,
    "freeze": freeze_to_the_end,
    "flicker": pulsing_offset,
    "noise": salt_and_pepper,
    "cut": mirrored_shots,
    "loop": loop_from_the_start,
}
