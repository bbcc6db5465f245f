"""The VAE's weights have the names and shapes of the published file, and its sizes are read off them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sfpp_core.wan.vae import WanVAE, WanVAEConfig, infer_vae_config
from tests.helpers.vae_models import random_latents, random_vae

PUBLISHED_WEIGHTS = Path(__file__).parents[2] / "data" / "wan21_vae_weights.txt"


def shapes_of(vae: WanVAE) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in vae.state_dict().items()}


def on_meta(config: WanVAEConfig) -> WanVAE:
    with torch.device("meta"):
        return WanVAE(config)


def published_shapes() -> dict[str, tuple[int, ...]]:
    rows = [line.split() for line in PUBLISHED_WEIGHTS.read_text().splitlines() if not line.startswith("#")]
    return {name: tuple(map(int, shape.split("x"))) for name, shape in rows}


def test_names_and_shapes_are_those_of_the_published_file() -> None:
    assert list(shapes_of(on_meta(WanVAEConfig())).items()) == list(published_shapes().items())


@pytest.mark.parametrize(
    "config",
    (
        *(WanVAEConfig(dim=dim) for dim in (8, 16, 96)),
        WanVAEConfig(dim=4, z_dim=8, dim_mult=(1, 2, 2), num_res_blocks=1, temporal_downsample=(True, False)),
    ),
)
def test_the_config_is_read_off_the_shapes(config: WanVAEConfig) -> None:
    assert infer_vae_config(shapes_of(on_meta(config))) == config


@pytest.mark.parametrize(
    "shapes, reason",
    (
        ({}, "it holds nothing"),
        ({"blocks.0.ffn.0.weight": (8, 8)}, "it holds blocks.0.ffn.0.weight"),
        ({"decoder.head.0.gamma": (96, 1, 1, 1)}, "no complete encoder"),
        ({"decoder.upsamples.0.upsamples.0.residual.2.weight": (1,)}, "Wan 2.2 5B"),
        ({"encoder.conv_in.weight": (96, 3, 3, 3, 3)}, "diffusers' names"),
    ),
)
def test_what_is_no_wan_vae_is_named(shapes: dict[str, tuple[int, ...]], reason: str) -> None:
    with pytest.raises(ValueError, match=f"not a Wan 2.1 VAE: .*{reason}"):
        infer_vae_config(shapes)


@pytest.mark.parametrize("shape", ((), (0, 3, 3, 3, 3)))
@pytest.mark.parametrize("name", ("encoder.conv1.weight", "conv2.weight", "encoder.downsamples.0.residual.2.weight"))
def test_layers_of_nothing_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"not a Wan 2.1 VAE: {name} is "):
        infer_vae_config(published_shapes() | {name: shape})


def test_weights_are_taken_over_without_copies_and_checked() -> None:
    vae = random_vae()
    weights = vae.state_dict()
    again = WanVAE.from_state_dict(weights)
    assert again.conv2.weight.data_ptr() == vae.conv2.weight.data_ptr()
    latents = random_latents(2)
    assert torch.equal(again.decode(latents), vae.decode(latents))
    broken = {name: weight for name, weight in weights.items() if name != "decoder.head.2.bias"}
    with pytest.raises(ValueError, match=r"decoder\.head\.2\.bias"):
        WanVAE.from_state_dict(broken)


@pytest.mark.parametrize(
    "changes, reason",
    (
        ({"dim": 0}, "at least 1"),
        ({"dim": 7, "dim_mult": (1, 1, 1, 1)}, "make it even"),
        ({"temporal_downsample": (True,)}, "4 stages need 3"),
    ),
)
def test_impossible_configs_are_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        WanVAEConfig(**changes)
