"""The two halves of the Wan 2.1 VAE as stacks of causal layers, built from a configuration."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from .vae_config import WanVAEConfig
from .vae_layers import (
    CONTEXT_FRAMES,
    CausalConv3d,
    CausalLayer,
    CausalSequential,
    ChannelNorm,
    Downsample,
    FeatureCache,
    FrameAttention,
    ResidualBlock,
    Upsample,
    keep_variance,
)


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
        """How many frames of the past decide a picture, of those that `expand` gives."""
        layers = (*self.upsamples[self._num_expanding :].modules(), *self.head)
        return CONTEXT_FRAMES * sum(isinstance(layer, CausalConv3d) for layer in layers)


def _residual_blocks(width_in: int, width: int, count: int) -> list[nn.Module]:
    return [ResidualBlock(width if block else width_in, width) for block in range(count)]


def _middle(width: int) -> CausalSequential:
    return CausalSequential(ResidualBlock(width, width), FrameAttention(width), ResidualBlock(width, width))


def _head(width_in: int, width: int) -> CausalSequential:
    return CausalSequential(ChannelNorm(width_in), nn.SiLU(), CausalConv3d(width_in, width))
