"""What shape a Wan 2.1 VAE has, and how to read that from the shapes of its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


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
