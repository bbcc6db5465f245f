"""Sizes of Wan 2.1: of its transformer and its VAE, read off their weights, and of latents.

How pixels, latent frames and tokens correspond is written down here and nowhere else. VAE space is what the Wan VAE
emits. Model space is what the transformer sees: each of the 16 channels shifted and scaled to about zero mean and unit
deviation. The numbers are Wan 2.1's own (wan/modules/vae.py of the published code); networks trained on them have them
built in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

FRAMES_PER_SECOND = 16
"""Frame rate of every Wan 2.1 video."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentGeometry:
    """Strides of a causal video VAE and of the transformer's patches.

    The first latent frame holds one pixel frame, every later one `temporal_stride` of them:
    T latent frames are `temporal_stride * (T - 1) + 1` pixel frames.
    """

    channels: int
    """Latent channels."""
    temporal_stride: int
    """Pixel frames a latent frame, after the first."""
    spatial_stride: int
    """Pixels a latent cell, along height and along width."""
    patch: int
    """Latent cells a token, along height and along width."""

    def pixel_frames(self, latent_frames: int) -> int:
        """Pixel frames that `latent_frames` (at least 1) decode to."""
        if latent_frames < 1:
            raise ValueError(f"latent_frames is {latent_frames}; a video has at least 1 latent frame.")
        return self.temporal_stride * (latent_frames - 1) + 1

    def seconds(self, latent_frames: int) -> float:
        """Seconds of video that `latent_frames` decode to; 0 for none."""
        return self.pixel_frames(latent_frames) / FRAMES_PER_SECOND if latent_frames else 0.0

    def latent_frames(self, pixel_frames: int) -> int:
        """Fewest latent frames that decode to at least `pixel_frames` (at least 1) pixel frames."""
        if pixel_frames < 1:
            raise ValueError(f"pixel_frames is {pixel_frames}; a video has at least 1 frame.")
        return math.ceil((pixel_frames - 1) / self.temporal_stride) + 1

    @property
    def size_multiple(self) -> int:
        """Pixels that height and width must be a multiple of, so that whole tokens cover the picture."""
        return self.spatial_stride * self.patch

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in latent cells of a picture of `height` x `width` pixels.

        Raises ValueError naming the nearest valid size if a side is not a positive multiple of `size_multiple`.
        """
        for name, size in (("height", height), ("width", width)):
            if size < self.size_multiple or size % self.size_multiple:
                nearest = max(1, round(size / self.size_multiple)) * self.size_multiple
                raise ValueError(
                    f"{name} is {size}; it must be a positive multiple of {self.size_multiple} pixels. Try {nearest}."
                )
        return height // self.spatial_stride, width // self.spatial_stride

    def tokens_per_frame(self, latent_height: int, latent_width: int) -> int:
        """Tokens that one latent frame of the given size becomes."""
        return (latent_height // self.patch) * (latent_width // self.patch)


WAN21 = LatentGeometry(channels=16, temporal_stride=4, spatial_stride=8, patch=2)
"""Wan 2.1, every size of it."""


PUBLISHED_HEAD_DIM = 128
"""Width of an attention head in every published Wan 2.1 model; the number of heads cannot be read off the weights."""

BLOCK_NAME = re.compile(r"blocks\.(\d+)\.")
RANKS = {
    "patch_embedding.weight": 5,
    "blocks.0.ffn.0.weight": 2,
    "text_embedding.0.weight": 2,
    "time_embedding.0.weight": 2,
    "head.head.weight": 2,
}
"""The weights whose shapes tell the sizes, and how many axes they have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WanConfig:
    """Sizes of the transformer; `WAN21_T2V_1_3B` and `WAN21_T2V_14B` are those of the published models."""

    dim: int
    """Width of a token."""
    ffn_dim: int
    """Width inside the feed-forward layers."""
    num_heads: int
    """Attention heads; dim / num_heads is the head's width and must be even and at least 6."""
    num_layers: int
    """Transformer blocks."""
    text_dim: int
    """Width of the text encoder's embeddings."""
    freq_dim: int = 256
    """Width of the sinusoidal timestep embedding."""
    in_channels: int = WAN21.channels
    """Latent channels that go in."""
    out_channels: int = WAN21.channels
    """Latent channels that come out."""
    eps: float = 1e-6
    """Added to the variance in every normalisation."""

    def __post_init__(self) -> None:
        sizes = ("dim", "ffn_dim", "num_heads", "num_layers", "text_dim", "freq_dim", "in_channels", "out_channels")
        for name in sizes:
            size = getattr(self, name)
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} is {size!r}; it must be a whole number of at least 1.")
        if self.dim % self.num_heads or self.head_dim % 2 or self.head_dim < 6:
            raise ValueError(
                f"dim {self.dim} over {self.num_heads} heads gives no even head width of at least 6; "
                "choose num_heads so that dim / num_heads is even (published models use heads of 128)."
            )
        if self.freq_dim % 2:
            raise ValueError(f"freq_dim is {self.freq_dim}; it must be even, half of it sines and half cosines.")
        if not 0 < self.eps < math.inf:
            raise ValueError(f"eps is {self.eps}; it must be a small number above 0, such as 1e-6.")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.num_heads


WAN21_T2V_1_3B = WanConfig(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30, text_dim=4096)
"""Wan2.1-T2V-1.3B: 1.42 billion parameters."""
WAN21_T2V_14B = WanConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40, text_dim=4096)
"""Wan2.1-T2V-14B: 14.3 billion parameters."""


def infer_config(shapes: Mapping[str, Sequence[int]], *, num_heads: int | None = None) -> WanConfig:
    """Read the sizes off the shapes of weights under Wan 2.1's own names.

    `num_heads` defaults to heads of 128 as in every published model. Raises KeyError naming the first weight
    that is missing, ValueError if one has another number of axes or the patch is not Wan 2.1's 1 x 2 x 2.
    """
    for name, rank in RANKS.items():
        if len(shapes[name]) != rank:
            raise ValueError(f"{name} is {list(shapes[name])}; it must have {rank} axes.")
    dim, in_channels, *patch = shapes["patch_embedding.weight"]
    if tuple(patch) != (1, WAN21.patch, WAN21.patch):
        raise ValueError(f"the patch is {tuple(patch)}; Wan 2.1 has {(1, WAN21.patch, WAN21.patch)}.")
    layers = {match[1] for match in map(BLOCK_NAME.match, shapes) if match}
    return WanConfig(
        dim=dim,
        ffn_dim=shapes["blocks.0.ffn.0.weight"][0],
        num_heads=num_heads or max(1, dim // PUBLISHED_HEAD_DIM),
        num_layers=len(layers),
        text_dim=shapes["text_embedding.0.weight"][1],
        freq_dim=shapes["time_embedding.0.weight"][1],
        in_channels=in_channels,
        out_channels=shapes["head.head.weight"][0] // WAN21.patch**2,
    )


# fmt: off
CHANNEL_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)
"""Mean of each channel in VAE space."""

CHANNEL_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)
"""Standard deviation of each channel in VAE space."""
# fmt: on


def to_model_space(raw: Tensor) -> Tensor:
    """Latents B 16 T H W of the VAE, shifted and scaled for the transformer; device and dtype stay."""
    mean, std = _per_channel(raw)
    return ((raw - mean) / std).to(raw.dtype)


def to_vae_space(latents: Tensor) -> Tensor:
    """The inverse of `to_model_space`: B 16 T H W from the transformer, as the VAE decodes them."""
    mean, std = _per_channel(latents)
    return (latents * std + mean).to(latents.dtype)


def _per_channel(latents: Tensor) -> Tensor:
    """Means and deviations, two tensors that broadcast over `latents`; at least float32, as half types lose digits."""
    if latents.ndim != 5 or latents.shape[1] != len(CHANNEL_MEAN):
        expected = f"(batch, {len(CHANNEL_MEAN)}, frames, height, width)"
        raise ValueError(f"the latents are {tuple(latents.shape)}; those of Wan 2.1 are {expected}")
    dtype = torch.promote_types(latents.dtype, torch.float32)
    moments = torch.tensor((CHANNEL_MEAN, CHANNEL_STD), dtype=dtype, device=latents.device)
    return rearrange(moments, "moment c -> moment 1 c 1 1 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class WanVAEConfig:
    """Sizes of a Wan 2.1 VAE; the defaults are those of the published one."""

    dim: int = 96
    """Channels at full resolution; 8 and 16 are what the built-in family and the tests use."""
    z_dim: int = 16
    """Channels of a latent."""
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    """Channels of each stage, in multiples of `dim`; between two stages height and width are halved."""
    num_res_blocks: int = 2
    """Residual blocks of an encoder stage; a decoder stage has one more."""
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    """After which stages time is halved too."""

    def __post_init__(self) -> None:
        sizes = (self.dim, self.z_dim, self.num_res_blocks, *self.dim_mult)
        if not self.dim_mult or min(sizes) < 1:
            raise ValueError(f"every size of a VAE must be at least 1, got {self}")
        if len(self.temporal_downsample) != len(self.dim_mult) - 1:
            raise ValueError(
                f"temporal_downsample has {len(self.temporal_downsample)} entries; "
                f"{len(self.dim_mult)} stages need {len(self.dim_mult) - 1}, one between each two"
            )
        if any((self.dim * mult) % 2 for mult in self.dim_mult[1:]):
            raise ValueError(f"dim {self.dim} is odd; the decoder halves the channels of a stage, so make it even")

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent place, in height and in width."""
        return 2 ** len(self.temporal_downsample)

    @property
    def temporal_stride(self) -> int:
        """Pixel frames per latent frame, for all latent frames but the first, which holds one."""
        return 2 ** sum(self.temporal_downsample)


def infer_vae_config(shapes: Mapping[str, Sequence[int]]) -> WanVAEConfig:
    """Read the sizes of a Wan 2.1 VAE from the shapes of its weights, by name.

    Only the few names that tell the sizes are looked at; loading with `WanVAE.from_state_dict` checks all of them.

    Raises:
        ValueError: the names are not those of a Wan 2.1 VAE; says what they look like instead, where that is known.
    """
    for name in ("encoder.conv1.weight", "encoder.downsamples.0.residual.0.gamma", "conv2.weight"):
        if name not in shapes:
            raise ValueError(f"this is not a Wan 2.1 VAE: {_what_instead(shapes)} ({name} is missing)")
    for name, shape in shapes.items():
        if name.endswith(".weight") and min(shape, default=0) < 1:
            raise ValueError(f"this is not a Wan 2.1 VAE: {name} is {list(shape)}, which holds nothing of a layer")
    dim = shapes["encoder.conv1.weight"][0]
    stages = _encoder_stages(shapes)
    return WanVAEConfig(
        dim=dim,
        z_dim=shapes["conv2.weight"][0],
        dim_mult=tuple(stage.channels // dim for stage in stages),
        num_res_blocks=stages[0].num_blocks,
        temporal_downsample=tuple(stage.temporal for stage in stages[:-1]),
    )


@dataclass(kw_only=True, slots=True)
class _Stage:
    channels: int = 0
    num_blocks: int = 0
    temporal: bool = False


def _encoder_stages(shapes: Mapping[str, Sequence[int]]) -> list[_Stage]:
    """Walk the encoder's numbered layers: residual blocks belong to a stage, a resampling layer ends it."""
    found = (re.match(r"encoder\.downsamples\.(\d+)\.", name) for name in shapes)
    stages = [_Stage()]
    for index in sorted({int(match[1]) for match in found if match}):
        layer = f"encoder.downsamples.{index}"
        if f"{layer}.residual.2.weight" in shapes:
            stages[-1].channels = shapes[f"{layer}.residual.2.weight"][0]
            stages[-1].num_blocks += 1
        else:
            stages[-1].temporal = f"{layer}.time_conv.weight" in shapes
            stages.append(_Stage())
    return stages


def _what_instead(shapes: Mapping[str, Sequence[int]]) -> str:
    if any(".downsamples.0.downsamples." in name or ".upsamples.0.upsamples." in name for name in shapes):
        return "it is the VAE of Wan 2.2 5B; use wan_2.1_vae.safetensors"
    if "encoder.conv_in.weight" in shapes:
        return "its weights have diffusers' names; use Wan's own file, or ComfyUI's wan_2.1_vae.safetensors"
    if "decoder.head.0.gamma" in shapes:
        return "it has no complete encoder; use the full wan_2.1_vae.safetensors"
    first = ", ".join(sorted(shapes)[:3]) or "nothing"
    return f"it holds {first}"
