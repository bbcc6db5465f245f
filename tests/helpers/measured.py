"""Series as `measure` gives them, made up, so that a test can say what is in them."""

from __future__ import annotations

import numpy as np

from sfpp_core.stability.measure import FrameSeries

RATE = 16
THUMBNAIL = (20, 36)


def series(num_frames: int, **changed: object) -> FrameSeries:
    """A video in which nothing happens, but for what is given: a number for all frames, or an array."""
    fields: dict[str, object] = {
        "time": np.arange(num_frames) / RATE,
        "luminance": 0.5,
        "contrast": 0.2,
        "spread": 0.5,
        "highlights": 0.0,
        "shadows": 0.0,
        **dict.fromkeys(("red", "green", "blue"), 0.5),
        "saturation": 0.0,
        "sharpness": 0.6,
        "noise": 0.005,
        **dict.fromkeys(("difference", "swing", "flow", "flow_top"), 0.0),
        "light_change": np.zeros((num_frames, 3)),
        "tiles": np.full((num_frames, 36, 3), 0.5, np.float32),
        "thumbnails": np.full((num_frames, *THUMBNAIL), 128, np.uint8),
        **changed,
    }
    return FrameSeries(
        **{name: np.full(num_frames, value) if np.isscalar(value) else value for name, value in fields.items()}
    )


def wandering(num_frames: int, seed: int = 0) -> np.ndarray:
    """Thumbnails of a video that moves on smoothly and never comes back: waves of random speeds and directions."""
    rng = np.random.default_rng(seed)
    height, width = THUMBNAIL
    y, x = np.mgrid[:height, :width]
    time = np.arange(num_frames)[:, None, None]
    picture = sum(
        np.sin(fx * x + fy * y + speed * time + phase)
        for fx, fy, speed, phase in rng.uniform((-0.5, -0.5, -0.3, 0), (0.5, 0.5, 0.3, 6), (6, 4))
    )
    return np.clip(128 + 16 * picture, 0, 255).astype(np.uint8)
