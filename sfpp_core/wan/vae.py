"""The Wan 2.1 VAE: videos to latents and back, whole, or piece by piece with memory that does not grow.

Axes: B batch, C channels, F pixel frames, T latent frames, H height, W width. Pixels are B 3 F H W in [-1, 1]; latents
are B C T H/8 W/8 as the VAE emits them ("VAE space"). The first latent frame is one pixel frame, each later one four.

`encode` and `decode` run through the streams one latent frame at a time, so what is streamed equals what comes in one
call bit for bit. `reconstruct` and the two calls it consists of take a whole clip through the same layers at once: for
training, with gradients.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from .config import WanVAEConfig, infer_vae_config
from .vae_layers import Decoder, Encoder, FeatureCache

__all__ = ["DecodeStream", "EncodeStream", "Reconstruction", "WanVAE", "WanVAEConfig", "infer_vae_config"]

LOGVAR_RANGE = (-30.0, 20.0)
"""Where log-variances are clamped, as in Wan's own sampling."""

INITIAL_LOGVAR = -6.0
"""Log-variance of a fresh network: nearly noiseless, so that training starts as a plain autoencoder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconstruction:
    """The tensors that the VAE's training losses need of a clip."""

    video: Tensor
    """B 3 F H W, not clamped."""
    mean: Tensor
    """B C T H/8 W/8."""
    logvar: Tensor
    """B C T H/8 W/8, within LOGVAR_RANGE."""


class WanVAE(nn.Module):
    """The Wan 2.1 VAE of any width; names and shapes of its weights are those of the published files."""

    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.conv1 = nn.Conv3d(2 * config.z_dim, 2 * config.z_dim, 1)
        self.conv2 = nn.Conv3d(config.z_dim, config.z_dim, 1)
        self.decoder = Decoder(config)
        with torch.no_grad():
            self.conv1.weight[config.z_dim :] = 0.0
            self.conv1.bias[config.z_dim :] = INITIAL_LOGVAR

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor]) -> WanVAE:
        """The VAE that these weights are of, around the same tensors: nothing is copied or allocated.

        Raises:
            ValueError: they are not the weights of a Wan 2.1 VAE.
        """
        config = infer_vae_config({name: tuple(weight.shape) for name, weight in state_dict.items()})
        with torch.device("meta"):
            vae = cls(config)
        try:
            vae.load_state_dict(state_dict, assign=True)
        except RuntimeError as error:
            raise ValueError(f"these weights do not fit a Wan 2.1 VAE of {config}: {error}") from error
        return vae

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Pixels B 3 F H W in [-1, 1] to latents B C T H/8 W/8, the means, with T = (F - 1) / 4 + 1.

        Raises:
            ValueError: F is not 4n + 1, or H or W is no multiple of 8.
        """
        self._check_frames(video.shape[2])
        return EncodeStream(self).push(video)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents B C T h w to pixels B 3 F 8h 8w in [-1, 1], with F = 4 (T - 1) + 1."""
        return DecodeStream(self).push(latents)

    def encode_moments(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents of a whole clip, each B C T H/8 W/8, with gradients.

        Raises:
            ValueError: as `encode`.
        """
        _check_video(video, self.config)
        self._check_frames(video.shape[2])
        mean, logvar = self._moments(video, FeatureCache(record=False))
        return mean, logvar.clamp(*LOGVAR_RANGE)

    def decode_clip(self, latents: Tensor) -> Tensor:
        """Pixels of a whole clip of latents at once, not clamped, with gradients; otherwise as `decode`."""
        _check_latents(latents, self.config)
        return self._pixels(latents, FeatureCache(record=False))

    def reconstruct(self, video: Tensor, *, noise: Tensor | None = None) -> Reconstruction:
        """Encode and decode a whole clip for training.

        Args:
            video: B 3 F H W in [-1, 1], F = 4n + 1.
            noise: standard normal, in the shape of the latents: what is decoded is then a sample, without it the mean.
        """
        mean, logvar = self.encode_moments(video)
        latents = mean if noise is None else mean + noise * torch.exp(0.5 * logvar)
        return Reconstruction(video=self.decode_clip(latents), mean=mean, logvar=logvar)

    def _moments(self, video: Tensor, cache: FeatureCache) -> tuple[Tensor, Tensor]:
        mean, logvar = self.conv1(self.encoder(video, cache)).chunk(2, dim=1)
        return mean, logvar

    def _pixels(self, latents: Tensor, cache: FeatureCache) -> Tensor:
        return self.decoder(self.conv2(latents), cache)

    def _check_frames(self, num_frames: int) -> None:
        stride = self.config.temporal_stride
        extra = (num_frames - 1) % stride
        if num_frames < 1:
            raise ValueError("the video has no frames; the VAE needs at least 1")
        if extra:
            nearest = num_frames - extra if 2 * extra < stride else num_frames - extra + stride
            raise ValueError(f"the video has {num_frames} frames; the VAE needs {stride}n+1. Try {nearest}.")


BROKEN_STREAM = "an earlier piece failed half way, so the video's past is lost; start the video over with a new stream"

StreamT = TypeVar("StreamT", bound="_Stream")


class _Stream:
    """Takes one video piece by piece through one half of the VAE.

    A piece may have any number of frames; within, the layers always see the same portions, one latent frame's worth,
    because only equal shapes give equal bits.
    """

    def __init__(self, vae: WanVAE) -> None:
        self._vae = vae
        self._cache: FeatureCache | None = FeatureCache()
        self._shape: tuple[int, ...] | None = None

    def _claim_cache(self, piece: Tensor) -> FeatureCache:
        """The past, for one push; given back when the push is through, so that no half-way past is ever used."""
        if self._cache is None:
            raise RuntimeError(BROKEN_STREAM)
        batch, _, _, height, width = piece.shape
        shape = (batch, height, width)
        if self._shape not in (None, shape):
            raise ValueError(f"this piece has batch, height and width {shape}; its video began with {self._shape}")
        self._shape = shape
        cache, self._cache = self._cache, None
        return cache

    def fork(self: StreamT) -> StreamT:
        """A stream that goes on from here on its own: for another continuation of the same video."""
        if self._cache is None:
            raise RuntimeError(BROKEN_STREAM)
        twin = copy.copy(self)
        twin._cache = self._cache.copy()
        return twin

    def keep_past_on(self, device: torch.device) -> None:
        """Move the video's past; the next piece must come on this device."""
        if self._cache is None:
            raise RuntimeError(BROKEN_STREAM)
        self._cache = self._cache.to(device)


class DecodeStream(_Stream):
    """Latents to pixels, piece by piece: the pieces of a video in order give its frames, as `WanVAE.decode` would.

    Memory is that of one latent frame plus the convolutions' past, however long the video is.
    """

    def __init__(self, vae: WanVAE, *, portion: int = 1) -> None:
        """Begin a video.

        Args:
            portion: latent frames that the layers see at once. More than 1 is faster for small pictures, takes as much
                more memory, and gives other bits: equal to rounding.
        """
        super().__init__(vae)
        self._portion = portion

    @torch.no_grad()
    def push(self, latents: Tensor) -> Tensor:
        """The next latents, B C T h w with any T >= 1, to their pixels, B 3 F 8h 8w in [-1, 1].

        F is 4T, and 3 less for the piece that begins the video.

        Raises:
            ValueError: another number of channels than the VAE's, or another size than the pieces before.
            RuntimeError: an earlier push was interrupted, so the video's past is lost.
        """
        _check_latents(latents, self._vae.config)
        cache = self._claim_cache(latents)
        video = []
        for portion in latents.split(self._portion, dim=2):
            video.append(self._vae._pixels(_canonical(portion), cache).clamp(-1.0, 1.0))
            cache.at_start = False
        self._cache = cache
        return torch.cat(video, dim=2)

    @torch.no_grad()
    def warm_up(self, latents: Tensor) -> None:
        """Take in the next latents, as `push` does, without returning their pictures.

        Later pictures are the same, bit for bit, unless the decoder was compiled. Faster than `push` for many latents:
        layers at the pictures' own rate see only as many of them as `Decoder.picture_context` asks for. Raises as
        `push`.
        """
        vae = self._vae
        _check_latents(latents, vae.config)
        in_full = -(-vae.decoder.picture_context // vae.config.temporal_stride)
        # In the portions of `push`, because only equal shapes give equal bits.
        passed_over = max(0, latents.shape[2] - in_full) // self._portion * self._portion
        cache = self._claim_cache(latents)
        for start in range(0, passed_over, self._portion):
            portion = _canonical(latents[:, :, start : start + self._portion])
            vae.decoder.expand(vae.conv2(portion), cache)
            cache.at_start = False
        self._cache = cache
        self.push(latents[:, :, passed_over:])


class EncodeStream(_Stream):
    """Pixels to latents, piece by piece: the pieces of a video in order give its latents, as `WanVAE.encode` would.

    Frames that do not fill a latent frame yet wait for the next piece; there are at most 3.
    """

    def __init__(self, vae: WanVAE) -> None:
        super().__init__(vae)
        self._waiting: Tensor | None = None

    @torch.no_grad()
    def push(self, video: Tensor) -> Tensor:
        """The next frames, B 3 F H W in [-1, 1] with any F >= 1, to the latents that are complete now, B C T H/8 W/8.

        T may be 0. Frames that fill no latent frame yet wait for the next piece, or are lost if there is none.

        Raises:
            ValueError: no RGB, H or W no multiple of 8, or another size than the pieces before.
            RuntimeError: an earlier push was interrupted, so the video's past is lost.
        """
        _check_video(video, self._vae.config)
        cache = self._claim_cache(video)
        if self._waiting is not None:
            video = torch.cat((self._waiting, video), dim=2)
        stride = self._vae.config.temporal_stride
        num_first = 1 if cache.at_start else 0
        num_whole = num_first + (video.shape[2] - num_first) // stride * stride
        means = [video.new_empty(self._latent_shape(video))]
        for portion in (video[:, :, :num_first], *video[:, :, num_first:num_whole].split(stride, dim=2)):
            if portion.shape[2] > 0:
                means.append(self._vae._moments(_canonical(portion), cache)[0])
                cache.at_start = False
        self._waiting = video[:, :, num_whole:].clone()
        self._cache = cache
        return torch.cat(means, dim=2)

    def _latent_shape(self, video: Tensor) -> tuple[int, ...]:
        """Return the shape of no latent frames of this video."""
        config = self._vae.config
        batch, _, _, height, width = video.shape
        return batch, config.z_dim, 0, height // config.spatial_stride, width // config.spatial_stride


def _canonical(piece: Tensor) -> Tensor:
    """A fresh copy: it has the same strides wherever it was cut from, and so takes the same kernels."""
    return piece.clone(memory_format=torch.contiguous_format)


def _check_latents(latents: Tensor, config: WanVAEConfig) -> None:
    if latents.ndim != 5 or latents.shape[1] != config.z_dim or min(latents.shape) < 1:
        raise ValueError(f"latents are {tuple(latents.shape)}; this VAE decodes (batch, {config.z_dim}, frames, h, w)")


def _check_video(video: Tensor, config: WanVAEConfig) -> None:
    if video.ndim != 5 or video.shape[1] != 3 or min(video.shape) < 1:
        raise ValueError(f"the video is {tuple(video.shape)}; the VAE encodes (batch, 3, frames, height, width)")
    for axis, size in zip(("height", "width"), video.shape[-2:], strict=True):
        if size % config.spatial_stride:
            nearest = max(1, round(size / config.spatial_stride)) * config.spatial_stride
            raise ValueError(
                f"the video's {axis} is {size}; the VAE needs a multiple of {config.spatial_stride}. Try {nearest}."
            )
