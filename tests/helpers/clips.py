"""Undamaged clips that the tests of Visual Stability share: uint8 H W C frames."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from sfpp_core.video.span import VideoSpan
from training.data.scenes.attributes import sample_scene
from training.data.scenes.render import render


def footage(frames: Sequence[np.ndarray], fps: float = 16.0) -> VideoSpan:
    """Frames as footage."""
    return VideoSpan.from_images(torch.from_numpy(np.stack(frames)).float() / 255, fps)


def pan(
    num_frames: int = 120, fps: float = 24.0, height: int = 72, width: int = 128, seed: int = 0
) -> list[np.ndarray]:
    """A hand-held camera that pans over a landscape of edges and textures, with the noise of a sensor."""
    rng = np.random.default_rng(seed)
    scene = sum(
        cv2.resize(rng.uniform(-1, 1, (height // size + 2, 5 * width // size + 2, 3)), (5 * width, 2 * height)) * amount
        for size, amount in ((32, 0.25), (12, 0.18), (5, 0.12), (2, 0.08))
    )
    scene = np.clip(0.45 + scene + 0.15 * np.sign(scene), 0.02, 0.98).astype(np.float32)
    frames = []
    for index in range(num_frames):
        x = 20 + 1.5 * width * index / num_frames + 3 * np.sin(index / fps * 2.1)
        y = 0.4 * height + 4 * np.sin(index / fps * 1.3)
        moved = np.float32(((1, 0, -x), (0, 1, -y)))
        view = cv2.warpAffine(scene, moved, (width, height), flags=cv2.INTER_LINEAR)
        frames.append((np.clip(view + rng.normal(0, 0.008, view.shape), 0, 1) * 255 + 0.5).astype(np.uint8))
    return frames


def scene(index: int, num_frames: int = 96, height: int = 64, width: int = 64) -> list[np.ndarray]:
    """A scene of the built-in family's training data: an object that moves over a ground that does not at all."""
    (video,) = render(sample_scene(0, index), 0, num_frames, height, width)
    return list(((video.permute(1, 2, 3, 0) + 1) * 127.5).round().to(torch.uint8).numpy())
