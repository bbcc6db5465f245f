"""Parity with diffusers' WanTransformer3DModel: the files it writes open here, and both networks say the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sfpp_core.checkpoint import open_checkpoint
from sfpp_core.wan.config import WanConfig
from sfpp_core.wan.transformer import WanTransformer

diffusers = pytest.importorskip("diffusers", reason="diffusers is a development dependency (pip install diffusers)")

TEXT_DIM = 64


def random_reference(*, heads: int, head_dim: int) -> diffusers.WanTransformer3DModel:
    """A small model with every weight random, the ones that start at zero or one too."""
    model = diffusers.WanTransformer3DModel(
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        text_dim=TEXT_DIM,
        freq_dim=256,
        ffn_dim=320,
        num_layers=3,
        rope_max_seq_len=64,
    )
    generator = torch.Generator().manual_seed(heads)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(std=0.05, generator=generator)
            if "norm" in name and name.endswith("weight"):
                weight.add_(1)
    return model.eval()


@pytest.mark.parametrize("heads, head_dim", [(2, 128), (8, 32)])
@pytest.mark.parametrize("shards", [False, True])
def test_a_saved_pipeline_opens_and_predicts_the_same_flow(
    heads: int, head_dim: int, shards: bool, tmp_path: Path
) -> None:
    reference = random_reference(heads=heads, head_dim=head_dim)
    reference.save_pretrained(tmp_path / "transformer", max_shard_size="2MB" if shards else "1GB")
    assert (len(list((tmp_path / "transformer").glob("*.safetensors"))) > 1) == shards

    checkpoint = open_checkpoint(tmp_path)
    config = WanConfig(dim=256, ffn_dim=320, num_heads=heads, num_layers=3, text_dim=TEXT_DIM)
    assert checkpoint.config == config
    assert checkpoint.layout == "diffusers"

    ours = WanTransformer(checkpoint.config).eval()
    ours.load_state_dict(checkpoint.state_dict, strict=True)
    for shape in [(1, 1, 4, 4), (2, 3, 6, 8), (1, 5, 10, 4)]:
        flow, expected = flows(ours, reference, *shape)
        assert expected.abs().mean() > 0.05, "the reference says nothing, so agreeing with it shows nothing"
        assert (flow - expected).abs().max() < 1e-4


@torch.no_grad()
def flows(
    ours: WanTransformer,
    reference: diffusers.WanTransformer3DModel,
    batch: int,
    frames: int,
    height: int,
    width: int,
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(frames)
    x = torch.randn(batch, 16, frames, height, width, generator=generator)
    text = torch.randn(batch, 11, TEXT_DIM, generator=generator)
    timestep = torch.rand(batch, generator=generator) * 1000
    expected = reference(hidden_states=x, timestep=timestep, encoder_hidden_states=text, return_dict=False)[0]
    return ours(x, timestep[:, None].expand(batch, frames), text), expected
