"""Windows: which frames of a rollout teacher and critic judge, and how they become a valid short clip.

A window here is the K latent frames that are judged, K the teacher's horizon; what attention sees is another one. In
Self-Forcing++ (arXiv 2510.02283) the student makes N >> K frames and one window, anywhere in them, is judged. Frames
after the window cannot change it, so the window is drawn first and the rollout ends with it: the same distribution of
windows at half the cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfpp_core.rollout.flow import generator_for
from sfpp_core.wan.config import WAN21, to_model_space, to_vae_space
from sfpp_core.wan.vae import DecodeStream, WanVAE

from ..config import require

WARMUP_FRAMES = 12
"""Latent frames before a window that are decoded to get the pictures that it begins with.

A decoder that starts in mid-video is wrong at first and then forgets it. With the built-in autoencoder and videos of
its causally initialised student, the first picture is off by 25, 15, 8.7, 4.6 and 0.7 of 255 levels (root mean square)
after 1, 4, 6, 8 and 12 frames, its latent by 0.44, 0.29, 0.16, 0.09 and 0.01, where latents themselves have 0.64 and
lose 0.22 between decoder and encoder. After 12 the worst are windows that start at frame 15, with 1.9 levels and 0.04.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowConfig:
    """The length of rollouts and the part of them that is judged. Lengths are in latent frames."""

    frames: int = 21
    """K, of a window: what the teacher was trained on."""
    rollout_frames: int
    """N, of the longest rollout; K for Self-Forcing. A video that goes on from step to step ends with its last whole
    window: with the other defaults, whose windows begin every 15 frames, 420 rolls 411."""
    ramp_updates: int = 0
    """Generator updates over which rollouts grow from K to N; 0 for N from the beginning."""
    first_window_probability: float = 0.0
    """Share of steps that judge a video's beginning whatever else would be their turn; a video that goes on from step
    to step goes on after them. Otherwise, with N = 6K, the beginning is judged once in 36 steps at chunk 3, and the
    first
    chunk stays weak."""
    masked_frames: int = 6
    """First frames of a window from mid-video that are made again from their pictures and give no gradient; see
    `as_clip`. Self-Forcing masks one chunk, 3."""

    def __post_init__(self) -> None:
        require(self.frames >= 2, f"window.frames is {self.frames}; it must be at least 2, e.g. 21.")
        require(
            self.rollout_frames >= self.frames,
            f"window.rollout_frames is {self.rollout_frames}, shorter than a window of {self.frames}; write "
            f"{self.frames} or more.",
        )
        require(self.ramp_updates >= 0, f"window.ramp_updates is {self.ramp_updates}; it must be 0 or more.")
        share = self.first_window_probability
        require(0 <= share <= 1, f"window.first_window_probability is {share}; it must lie in [0, 1], e.g. 0.25.")
        require(
            1 <= self.masked_frames < self.frames,
            f"window.masked_frames is {self.masked_frames}; it must lie between 1 and {self.frames - 1}.",
        )

    def check_chunk(self, chunk: int) -> None:
        """Raise ConfigError unless windows and rollouts are whole chunks."""
        for name in ("frames", "rollout_frames"):
            value = getattr(self, name)
            nearest = max(1, round(value / chunk)) * chunk
            require(
                value % chunk == 0,
                f"window.{name} is {value}; it must be a multiple of the chunk, {chunk}. Try {nearest}.",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """The frames of a rollout that are judged."""

    start: int
    """The video's index of the first one."""
    frames: int

    @property
    def end(self) -> int:
        """Frames that the rollout has to have."""
        return self.start + self.frames

    @property
    def warmup(self) -> int:
        """Frames before it that `as_clip` needs."""
        return min(self.start, WARMUP_FRAMES)

    @property
    def with_warmup(self) -> slice:
        """Return where in the video lies what `as_clip` takes."""
        return slice(self.start - self.warmup, self.end)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Clip:
    """A window as teacher and critic see it: a short video of its own."""

    latents: Tensor
    """[B, C, K, H, W], model space."""
    mask: Tensor
    """[1, 1, K, 1, 1], boolean: the frames that count in the losses."""


def rollout_frames_at(config: WindowConfig, update: int, *, chunk: int) -> int:
    """N at a generator update: in equal steps of whole chunks from K at update 0 to the full length after the ramp."""
    if update >= config.ramp_updates:
        return config.rollout_frames
    chunks = (config.rollout_frames - config.frames) // chunk
    return config.frames + chunk * (chunks * update // config.ramp_updates)


def draw_window(config: WindowConfig, *names: str | int, seed: int, rollout_frames: int, chunk: int) -> Window:
    """The window of a step, for all of its samples, so that every rank makes the same number of network calls.

    The start is uniform over 0, chunk, ..., rollout_frames - K, and 0 with `first_window_probability` besides.
    """
    starts = range(0, rollout_frames - config.frames + 1, chunk)
    choice = torch.randint(len(starts), (), generator=generator_for(seed, *names, "window")).item()
    return Window(start=0 if draw_beginning(config, *names, seed=seed) else starts[choice], frames=config.frames)


def draw_beginning(config: WindowConfig, *names: str | int, seed: int) -> bool:
    """Return whether a step judges the video's beginning out of turn, by `first_window_probability`."""
    return torch.rand((), generator=generator_for(seed, *names, "beginning")).item() < config.first_window_probability


def as_clip(latents: Tensor, vae: WanVAE, window: Window, *, masked_frames: int) -> Clip:
    """The short video that teacher and critic are to judge in place of a window.

    Wan's first latent frame is one picture and every later one four, encoded with all that came before in view; so
    frames cut out of a video are no video that a teacher knows. Self-Forcing's code puts the first frame's last
    picture, encoded as the beginning of a video, in its place. Here the first `masked_frames` frames are all encoded
    again, from that picture on, because the encoder's memory is longer than a frame. With the built-in autoencoder a
    lost past moves the latents of frames 1 to 7 by 0.52, 0.40, 0.31, 0.20, 0.06, 0.03 and 0.01 (root mean square;
    latents have 0.8), and the built-in teacher's flow loss at sigma 0.3 on true scenes cut out of longer ones is

        re-encoded      frame 1   frame 2   frames 3-5   frames 6-8   frames 9-20
        1 frame            1.35      0.82         0.37        0.196         0.198
        3 frames           0.18      0.20         0.45        0.195         0.198
        6 frames           0.18      0.19         0.20        0.196         0.197
        all 21             0.18      0.19         0.20        0.196         0.197

    Frames that still show the lost past would be pushed to look like the beginning of a video; they hardly disturb the
    judgement of others. What is re-encoded has no gradient, so it does not count; the other frames stay as they are.
    A window at the video's beginning is such a video already: it is returned as it is, and all of it counts.

    Args:
        latents: [B, C, warmup + K, H, W], model space: the video's frames `window.with_warmup`. What feeds the cache
        and
            the video are still these.
        vae: anywhere; in its own precision, whatever autocast the caller is under.

    Raises:
        ValueError: the latents are not as long as the window and its warm-up.
    """
    expected = window.warmup + window.frames
    if latents.shape[2] != expected:
        raise ValueError(
            f"there are {latents.shape[2]} latent frames; a window of {window.frames} from frame {window.start} on "
            f"comes with {window.warmup} before it, {expected} in all. Cut the video with window.with_warmup."
        )
    mask = torch.ones(1, 1, window.frames, 1, 1, dtype=torch.bool, device=latents.device)
    if window.start == 0:
        return Clip(latents=latents, mask=mask)
    mask[:, :, :masked_frames] = False
    past, head, rest = latents.split([window.warmup, masked_frames, window.frames - masked_frames], dim=2)
    # What the judges see should not depend on how coarsely the student computes.
    with torch.autocast(next(vae.parameters()).device.type, enabled=False):
        beginning = begin_video(past, head, vae)
    return Clip(latents=torch.cat([beginning.to(latents), rest], dim=2), mask=mask)


@torch.no_grad()
def begin_video(past: Tensor, head: Tensor, vae: WanVAE) -> Tensor:
    """The frames `head`, seen after `past`, as the first of a video: from the last picture of the first of them on.

    Both are [B, C, T, H, W], model space, neither empty, and so is what is made of `head`, float32. Precision is the
    autoencoder's and that of the caller's autocast.
    """
    pictures = _decode_after(past, head, vae)[:, :, -WAN21.pixel_frames(head.shape[2]) :]
    return to_model_space(vae.encode(pictures).float())


def _decode_after(past: Tensor, head: Tensor, vae: WanVAE) -> Tensor:
    """The pictures of `head`; what the decoder remembers is not kept while they are encoded."""
    weight, stream = next(vae.parameters()), DecodeStream(vae)
    stream.warm_up(to_vae_space(past.float()).to(weight))
    return stream.push(to_vae_space(head.float()).to(weight))
