"""The causal layers of the Wan 2.1 VAE, and the memory that lets a video pass through them piece by piece.

Axes: B batch, C channels, F frames in time, H height, W width. Activations are B C F H W; every layer keeps the
memory format it is given (channels_last_3d is several times faster on CPUs and tensor cores).

Looking only backwards in time is what makes streaming exact: all that a layer needs of the past are its last one or
two input frames, and these are what a `FeatureCache` holds.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .config import WanVAEConfig

CONTEXT_FRAMES = 2
"""Input frames of the past that a convolution with three taps in time looks at."""

RESIDUAL_SCALE = 0.1
"""Scale of a residual branch's last convolution in a fresh network, which so starts close to its shortcuts."""

NORM_EPS = 1e-12
"""Smallest norm divided by; the default of torch.nn.functional.normalize, which Wan uses."""


class FeatureCache:
    """The past of one video: for each causal layer its last input frames, nothing before the first piece.

    `record=False` makes the cache of a clip that comes in one piece: it stays empty, so nothing is kept alive.
    Tensors in it are never written to, which makes `copy` cheap.
    """

    def __init__(self, *, record: bool = True) -> None:
        self.at_start = True
        """Whether the piece on its way begins the video: its first frame is then an image of its own."""
        self._record = record
        self._tails: dict[nn.Module, Tensor] = {}

    def take(self, layer: nn.Module) -> Tensor | None:
        """Hand over, and forget, what `layer` kept: its memory can go as soon as the layer has used it."""
        return self._tails.pop(layer, None)

    def keep(self, layer: nn.Module, frames: Tensor) -> None:
        """Remember `frames` for `layer`; cloned, because a view would keep its whole piece alive."""
        if self._record:
            self._tails[layer] = frames.clone()

    def copy(self) -> FeatureCache:
        """An independent past that is equal now."""
        twin = FeatureCache(record=self._record)
        twin.at_start = self.at_start
        twin._tails = dict(self._tails)
        return twin

    def to(self, device: torch.device) -> FeatureCache:
        """An equal past that is kept on `device`."""
        twin = self.copy()
        twin._tails = {layer: tail.to(device) for layer, tail in self._tails.items()}
        return twin


class CausalLayer:
    """Marks the modules whose forward takes the video's past: `forward(x, cache)`."""


class CausalSequential(CausalLayer, nn.Sequential):
    """A sequence of layers; those that are causal are given the cache."""

    def forward(self, x: Tensor, cache: FeatureCache) -> Tensor:
        for layer in self:
            x = layer(x, cache) if isinstance(layer, CausalLayer) else layer(x)
        return x


class CausalConv3d(CausalLayer, nn.Conv3d):
    """A convolution of three frames: the present one and two of the past; before the video come zeros.

    Args:
        spatial: side of the kernel in space, 1 or 3; the picture keeps its size.
    """

    def __init__(self, in_channels: int, out_channels: int, *, spatial: int = 3) -> None:
        margin = spatial // 2
        super().__init__(in_channels, out_channels, (CONTEXT_FRAMES + 1, spatial, spatial), padding=(0, margin, margin))

    def forward(self, x: Tensor, cache: FeatureCache) -> Tensor:
        past = cache.take(self)
        x = F.pad(x, (0, 0, 0, 0, CONTEXT_FRAMES, 0)) if past is None else torch.cat((past, x), dim=2)
        cache.keep(self, x[:, :, -CONTEXT_FRAMES:])
        if _needs_onednn(x):
            return torch.mkldnn_convolution(
                x, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
            )
        return super().forward(x)


def _needs_onednn(x: Tensor) -> bool:
    """Return whether PyTorch must be told to take oneDNN for a 3D convolution of `x`.

    On a CPU it otherwise runs a single small float32 video through its reference kernel: decoding 64x64 pixels with
    dim 16 then takes 2.7 times as long, 128x128 pixels 4.7 times. A compiler chooses for itself, and cannot trace it.
    """
    if torch.compiler.is_compiling():
        return False
    plain_cpu = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain_cpu and x.shape[0] == 1 and torch.backends.mkldnn.is_available()


class ChannelNorm(nn.Module):
    """Divides by the root mean square over the channels at each place, then scales each channel by `gamma`.

    Args:
        channels: number of channels, axis 1 of the input.
        space_dims: axes after the channels (2 for pictures, 3 for videos); decides only the shape of `gamma`.
    """

    def __init__(self, channels: int, *, space_dims: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *(1,) * space_dims))

    def forward(self, x: Tensor) -> Tensor:
        # Squares of float16 overflow from 256 on. The sum is float32; the activations keep their type, autocast or not.
        wide = x.float() if x.dtype == torch.float16 else x
        energy = wide.square().sum(dim=1, keepdim=True, dtype=torch.float32).clamp_min(NORM_EPS**2)
        return x * (math.sqrt(x.shape[1]) * energy.rsqrt()).to(x.dtype) * self.gamma.to(x.dtype)


class ResidualBlock(CausalLayer, nn.Module):
    """Two normalised causal convolutions beside a shortcut, which is a 1x1x1 convolution where the width changes."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.residual = CausalSequential(
            ChannelNorm(in_channels),
            nn.SiLU(),
            CausalConv3d(in_channels, out_channels),
            ChannelNorm(out_channels),
            nn.SiLU(),
            nn.Identity(),  # Wan has a dropout of zero here, which counts in the names of the weights.
            CausalConv3d(out_channels, out_channels),
        )
        with torch.no_grad():
            self.residual[-1].weight.mul_(RESIDUAL_SCALE)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = nn.Conv3d(in_channels, out_channels, 1)
            keep_variance(self.shortcut)

    def forward(self, x: Tensor, cache: FeatureCache) -> Tensor:
        return self.shortcut(x) + self.residual(x, cache)


class FrameAttention(nn.Module):
    """Self-attention with one head among the places of each frame; frames do not see each other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, space_dims=2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, _, height, _ = x.shape
        frames = rearrange(x, "b c f h w -> (b f) c h w")
        q, k, v = rearrange(self.to_qkv(self.norm(frames)), "n (three c) h w -> three n 1 (h w) c", three=3)
        attended = rearrange(F.scaled_dot_product_attention(q, k, v), "n 1 (h w) c -> n c h w", h=height)
        return x + rearrange(self.proj(attended), "(b f) c h w -> b c f h w", b=batch)


class Downsample(CausalLayer, nn.Module):
    """Halves height and width, and in time too if `temporal`: the video's first frame stays, then two become one.

    A temporal step is a convolution over the two frames and the one before them.
    """

    def __init__(self, channels: int, *, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))
        keep_variance(self.resample[1])
        self.time_conv: nn.Conv3d | None = None
        if temporal:
            self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1))
            _pass_on(self.time_conv, taps={1: 0.5, 2: 0.5}, copies=1)

    def forward(self, x: Tensor, cache: FeatureCache) -> Tensor:
        x = _per_frame(self.resample, x)
        return x if self.time_conv is None else self._halve_time(self.time_conv, x, cache)

    @staticmethod
    def _halve_time(time_conv: nn.Conv3d, x: Tensor, cache: FeatureCache) -> Tensor:
        past = cache.take(time_conv)
        cache.keep(time_conv, x[:, :, -1:])
        if past is not None:
            return time_conv(torch.cat((past, x), dim=2))
        if x.shape[2] == 1:
            return x
        return torch.cat((x[:, :, :1], time_conv(x)), dim=2)


class Upsample(CausalLayer, nn.Module):
    """Doubles height and width and halves the channels; in time too if `temporal`: all but the first frame become two.

    The first frame of the video takes no part in the temporal step, not even as the past of the second.
    """

    def __init__(self, channels: int, *, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=2.0, mode="nearest-exact"), nn.Conv2d(channels, channels // 2, 3, padding=1)
        )
        keep_variance(self.resample[1])
        self.time_conv: CausalConv3d | None = None
        if temporal:
            self.time_conv = CausalConv3d(channels, 2 * channels, spatial=1)
            _pass_on(self.time_conv, taps={2: 1.0}, copies=2)

    def forward(self, x: Tensor, cache: FeatureCache) -> Tensor:
        if self.time_conv is not None:
            x = self._double_time(self.time_conv, x, cache)
        return _per_frame(self.resample, x)

    @staticmethod
    def _double_time(time_conv: CausalConv3d, x: Tensor, cache: FeatureCache) -> Tensor:
        first, later = x.split((1, x.shape[2] - 1), dim=2) if cache.at_start else (None, x)
        if later.shape[2] == 0:
            return x
        # "b (two c) f h w -> b c (f two) h w", as a concatenation of frames because that keeps the memory format.
        earlier_half, later_half = (half.split(1, dim=2) for half in time_conv(later, cache).chunk(2, dim=1))
        frames = [frame for pair in zip(earlier_half, later_half, strict=True) for frame in pair]
        return torch.cat(frames if first is None else [first, *frames], dim=2)


def keep_variance(conv: nn.Conv2d | nn.Conv3d) -> None:
    """Initialise a convolution on the main path so that its output is about as large as its input."""
    nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")


def _pass_on(conv: nn.Conv3d, *, taps: dict[int, float], copies: int) -> None:
    """Initialise a temporal convolution to pass frames on, so that they fit the video's first frame, which skips it."""
    with torch.no_grad():
        conv.weight.zero_()
        for tap, weight in taps.items():
            identity = weight * torch.eye(conv.in_channels, device=conv.weight.device)
            conv.weight[:, :, tap, 0, 0] = identity.repeat(copies, 1)
        conv.bias.zero_()


def _per_frame(layer: nn.Module, x: Tensor) -> Tensor:
    frames = layer(rearrange(x, "b c f h w -> (b f) c h w"))
    return rearrange(frames, "(b f) c h w -> b c f h w", b=x.shape[0])


class Encoder(CausalLayer, nn.Module):
    """Pixels B 3 F H W to B 2z T H/8 W/8, the input of `WanVAE.conv1`."""

    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        widths = [config.dim * mult for mult in (1, *config.dim_mult)]
        self.conv1 = CausalConv3d(3, widths[0])
        keep_variance(self.conv1)
        layers: list[nn.Module] = []
        for stage, (width_in, width) in enumerate(pairwise(widths)):
            layers += _residual_blocks(width_in, width, config.num_res_blocks)
            if stage < len(config.temporal_downsample):
                layers.append(Downsample(width, temporal=config.temporal_downsample[stage]))
        self.downsamples = CausalSequential(*layers)
        self.middle = _middle(widths[-1])
        self.head = _head(widths[-1], 2 * config.z_dim)

    def forward(self, x: Tensor, cache: FeatureCache) -> Tensor:
        x = self.conv1(x, cache)
        x = self.downsamples(x, cache)
        x = self.middle(x, cache)
        return self.head(x, cache)


class Decoder(CausalLayer, nn.Module):
    """The output of `WanVAE.conv2`, B z T H/8 W/8, to pixels B 3 F H W."""

    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        widths = [config.dim * mult for mult in (config.dim_mult[-1], *reversed(config.dim_mult))]
        temporal_upsample = config.temporal_downsample[::-1]
        self._num_expanding = 0
        self.conv1 = CausalConv3d(config.z_dim, widths[0])
        keep_variance(self.conv1)
        self.middle = _middle(widths[0])
        layers: list[nn.Module] = []
        for stage, (width_in, width) in enumerate(pairwise(widths)):
            # An upsampling layer has halved the channels in front of every stage but the first.
            layers += _residual_blocks(width_in // 2 if stage else width_in, width, config.num_res_blocks + 1)
            if stage < len(temporal_upsample):
                layers.append(Upsample(width, temporal=temporal_upsample[stage]))
                if temporal_upsample[stage]:
                    self._num_expanding = len(layers)
        self.upsamples = CausalSequential(*layers)
        self.head = _head(widths[-1], 3)

    def forward(self, x: Tensor, cache: FeatureCache) -> Tensor:
        x = self.conv1(x, cache)
        x = self.middle(x, cache)
        x = self.upsamples(x, cache)
        return self.head(x, cache)

    def expand(self, x: Tensor, cache: FeatureCache) -> Tensor:
        """The first layers of `forward`, until there is a frame for every picture. The others take most of the time."""
        x = self.conv1(x, cache)
        x = self.middle(x, cache)
        return self.upsamples[: self._num_expanding](x, cache)

    @property
    def picture_context(self) -> int:
        """Return how many frames of the past decide a picture, of those that `expand` gives."""
        layers = (*self.upsamples[self._num_expanding :].modules(), *self.head)
        return CONTEXT_FRAMES * sum(isinstance(layer, CausalConv3d) for layer in layers)


def _residual_blocks(width_in: int, width: int, count: int) -> list[nn.Module]:
    return [ResidualBlock(width if block else width_in, width) for block in range(count)]


def _middle(width: int) -> CausalSequential:
    return CausalSequential(ResidualBlock(width, width), FrameAttention(width), ResidualBlock(width, width))


def _head(width_in: int, width: int) -> CausalSequential:
    return CausalSequential(ChannelNorm(width_in), nn.SiLU(), CausalConv3d(width_in, width))
