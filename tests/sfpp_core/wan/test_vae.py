"""The VAE equals diffusers' on the same weights, can be trained, and refuses what does not fit with what does."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from sfpp_core.wan.config import CHANNEL_MEAN, CHANNEL_STD, to_model_space, to_vae_space
from sfpp_core.wan.vae import EncodeStream, WanVAE, WanVAEConfig
from sfpp_core.wan.vae_layers import FeatureCache, Upsample
from tests.helpers.vae_models import random_latents, random_vae, random_video


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    return random_vae()


def diffusers_name(name: str, num_res_blocks: int) -> str:
    """Where diffusers' AutoencoderKLWan keeps the weight that Wan calls `name`."""
    stage_length = num_res_blocks + 2  # a decoder stage's residual blocks and its upsampling

    def decoder_layer(match: re.Match[str]) -> str:
        stage, layer = divmod(int(match[1]), stage_length)
        inside = "upsamplers.0" if layer == stage_length - 1 else f"resnets.{layer}"
        return f"decoder.up_blocks.{stage}.{inside}."

    name = re.sub(r"^decoder\.upsamples\.(\d+)\.", decoder_layer, name)
    rules = (
        (r"^conv1\.", "quant_conv."),
        (r"^conv2\.", "post_quant_conv."),
        (r"coder\.conv1\.", "coder.conv_in."),
        (r"\.downsamples\.", ".down_blocks."),
        (r"\.middle\.0\.", ".mid_block.resnets.0."),
        (r"\.middle\.1\.", ".mid_block.attentions.0."),
        (r"\.middle\.2\.", ".mid_block.resnets.1."),
        (r"\.residual\.0\.", ".norm1."),
        (r"\.residual\.2\.", ".conv1."),
        (r"\.residual\.3\.", ".norm2."),
        (r"\.residual\.6\.", ".conv2."),
        (r"\.shortcut\.", ".conv_shortcut."),
        (r"\.head\.0\.", ".norm_out."),
        (r"\.head\.2\.", ".conv_out."),
    )
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


@pytest.mark.parametrize("latent_frames", (1, 2, 3, 6))
def test_encode_and_decode_equal_diffusers(vae: WanVAE, latent_frames: int) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is a development dependency")
    other = diffusers.AutoencoderKLWan(base_dim=vae.config.dim).eval()
    renamed = {diffusers_name(name, vae.config.num_res_blocks): weight for name, weight in vae.state_dict().items()}
    other.load_state_dict(renamed)
    video, latents = random_video(4 * latent_frames - 3, batch=2), random_latents(latent_frames, batch=2)
    with torch.no_grad():
        posterior = other.encode(video).latent_dist
        expected_video = other.decode(latents).sample
        mean, logvar = vae.encode_moments(video)
    # The bound is far above rounding and far below the signal.
    assert posterior.mean.std() > 0.1 and expected_video.std() > 0.05
    torch.testing.assert_close(vae.encode(video), posterior.mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(mean, posterior.mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(logvar, posterior.logvar, atol=1e-5, rtol=0)
    torch.testing.assert_close(vae.decode(latents), expected_video, atol=1e-5, rtol=0)


def test_the_training_pass_equals_the_stream_and_reaches_every_weight() -> None:
    vae = random_vae()
    video = random_video(9, batch=2)
    result = vae.reconstruct(video)
    torch.testing.assert_close(result.mean, vae.encode(video), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.video.clamp(-1, 1), vae.decode(result.mean), atol=1e-5, rtol=0)
    sampled = vae.reconstruct(video, noise=torch.randn_like(result.mean))
    (sampled.video.square().mean() + sampled.logvar.mean()).backward()
    without = [name for name, weight in vae.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == []


def test_a_fresh_network_passes_signal_and_learns() -> None:
    torch.manual_seed(0)
    vae = WanVAE(WanVAEConfig(dim=8))
    video = random_video(5, batch=2).mean(dim=(3, 4), keepdim=True).mul(8).expand(-1, -1, -1, 16, 16)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=3e-3)
    first = vae.reconstruct(video)
    assert 0.05 < first.mean.std() < 5.0
    torch.testing.assert_close(first.logvar, torch.full_like(first.logvar, -6.0))
    losses = []
    for _ in range(40):
        loss = (vae.reconstruct(video, noise=torch.randn_like(first.mean)).video - video).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_a_fresh_network_holds_frames_instead_of_mixing_them() -> None:
    layer = Upsample(4, temporal=True)
    frames = torch.randn(1, 4, 3, 2, 2)
    doubled = layer(frames, FeatureCache(record=False))
    assert torch.equal(doubled[:, :, 1::2], doubled[:, :, 2::2])
    assert doubled.shape[2] == 5


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_half_types_stay_half_and_survive_large_activations(vae: WanVAE, dtype: torch.dtype) -> None:
    norm = vae.decoder.head[0]
    large = torch.full((1, norm.gamma.shape[0], 1, 2, 2), 1000.0)
    normalised = norm(large.to(dtype))
    assert normalised.dtype == dtype
    torch.testing.assert_close(normalised.float(), norm(large), atol=0, rtol=2e-2)


def test_autocast_keeps_activations_half_and_channels_last() -> None:
    vae = random_vae()
    seen: list[tuple[torch.dtype, bool]] = []

    def look(_module: object, _inputs: object, output: Tensor) -> None:
        seen.append((output.dtype, output.is_contiguous(memory_format=torch.channels_last_3d)))

    for layer in (*vae.encoder.downsamples, *vae.decoder.upsamples):
        layer.register_forward_hook(look)
    video = random_video(9).contiguous(memory_format=torch.channels_last_3d)
    convolution = torch.nn.Conv3d(8, 8, 3).to(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", torch.bfloat16):
        result = vae.reconstruct(video)
        alone = convolution(torch.randn(1, 8, 4, 8, 8).contiguous(memory_format=torch.channels_last_3d))
    # Processors without bfloat16 of their own lose the order of memory in the convolution itself.
    assert set(seen) == {(torch.bfloat16, alone.is_contiguous(memory_format=torch.channels_last_3d))}
    exact = vae.reconstruct(video)
    assert (result.mean.float() - exact.mean).abs().mean() < 0.05 * exact.mean.std()


@pytest.mark.parametrize("num_frames, nearest", ((2, 1), (4, 5), (8, 9), (10, 9), (81 + 2, 85)))
def test_frame_counts_that_do_not_fit_are_refused_with_the_nearest(vae: WanVAE, num_frames: int, nearest: int) -> None:
    for encode in (vae.encode, vae.encode_moments, vae.reconstruct):
        with pytest.raises(ValueError, match=rf"has {num_frames} frames; the VAE needs 4n\+1\. Try {nearest}\."):
            encode(torch.zeros(1, 3, num_frames, 8, 8))


def test_sizes_that_do_not_fit_are_refused_with_the_nearest(vae: WanVAE) -> None:
    with pytest.raises(ValueError, match="height is 36; the VAE needs a multiple of 8. Try 32."):
        vae.encode(torch.zeros(1, 3, 1, 36, 48))
    with pytest.raises(ValueError, match="width is 5; the VAE needs a multiple of 8. Try 8."):
        EncodeStream(vae).push(torch.zeros(1, 3, 1, 32, 5))
    with pytest.raises(ValueError, match=r"\(batch, 3, frames, height, width\)"):
        vae.encode(torch.zeros(1, 4, 1, 32, 32))
    with pytest.raises(ValueError, match=r"\(batch, 16, frames, h, w\)"):
        vae.decode(torch.zeros(1, 16, 4, 4))
    with pytest.raises(ValueError, match=r"\(batch, 16, frames, h, w\)"):
        vae.decode_clip(torch.zeros(1, 16, 0, 4, 4))


def test_model_space_is_standardised_vae_space() -> None:
    raw = random_latents(2)
    expected = [(raw[:, i] - mean) / std for i, (mean, std) in enumerate(zip(CHANNEL_MEAN, CHANNEL_STD, strict=True))]
    assert torch.equal(to_model_space(raw), torch.stack(expected, dim=1))
    torch.testing.assert_close(to_vae_space(to_model_space(raw)), raw, atol=1e-6, rtol=1e-6)
    assert to_vae_space(torch.zeros(1, 16, 1, 1, 1)).flatten()[0].item() == pytest.approx(-0.7571)
    assert to_model_space(raw.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"\(batch, 16, frames"):
        to_model_space(torch.zeros(1, 4, 2, 2, 2))
