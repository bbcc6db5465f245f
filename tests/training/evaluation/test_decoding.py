"""The evaluation's fast decoder shows what the pack's shows."""

from __future__ import annotations

import pytest
import torch

from sfpp_core.wan.config import to_vae_space
from tests.helpers.vae_models import random_latents, random_vae
from training.models.sampling import VideoDecoder, compile_decoder


@pytest.mark.endurance
def test_compiled_it_makes_the_same_pictures() -> None:
    # Two stages of one block: compiling takes a time for every convolution.
    vae = random_vae(dim=4, dim_mult=(1, 1), num_res_blocks=1, temporal_downsample=(True,)).requires_grad_(False)
    latents = random_latents(6)
    expected = vae.decode(to_vae_space(latents))
    compile_decoder(vae)
    decoder = VideoDecoder(vae)
    pictures = torch.cat([decoder.push(piece) for piece in latents.split(3, dim=2)], dim=2)
    torch.testing.assert_close(pictures, expected, rtol=0, atol=1e-4)
