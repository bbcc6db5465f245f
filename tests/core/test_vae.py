"""The VAE equals diffusers' on the same weights, streams bit for bit what it makes whole, and can be trained."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sfpp_core.wan.latent_format import CHANNEL_MEAN, CHANNEL_STD, to_model_space, to_vae_space
from sfpp_core.wan.vae import DecodeStream, EncodeStream, WanVAE, WanVAEConfig, infer_vae_config
from sfpp_core.wan.vae_layers import FeatureCache, Upsample

ROOT = Path(__file__).parents[2]
PUBLISHED_WEIGHTS = Path(__file__).parent / "data" / "wan21_vae_weights.txt"
HEIGHT, WIDTH = 32, 48


def random_vae(dim: int = 8) -> WanVAE:
    """A VAE whose every weight matters, the residual branches and the temporal convolutions' past included."""
    torch.manual_seed(0)
    vae = WanVAE(WanVAEConfig(dim=dim)).eval()
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            fan_in = parameter[0].numel() if name.endswith("weight") else 16
            parameter.copy_(torch.randn_like(parameter) * fan_in**-0.5 + name.endswith("gamma"))
        vae.decoder.head[-1].weight.mul_(0.2)  # so that few pixels are clamped
    return vae


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    return random_vae()


def random_video(frames: int, *, batch: int = 1, seed: int = 1) -> Tensor:
    return torch.rand(batch, 3, frames, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def random_latents(frames: int, *, batch: int = 1, seed: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 16, frames, HEIGHT // 8, WIDTH // 8, generator=generator)


def pieces(video: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    return list(video.split(list(sizes), dim=2))


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


@pytest.mark.parametrize("sizes", ((1,) * 7, (1, 2, 3, 1), (3, 1, 2, 1), (2, 3, 2), (7,)))
def test_streamed_decoding_is_whole_decoding_bit_for_bit(vae: WanVAE, sizes: tuple[int, ...]) -> None:
    latents = random_latents(7)
    stream = DecodeStream(vae)
    streamed = [stream.push(piece) for piece in pieces(latents, sizes)]
    assert [piece.shape[2] for piece in streamed] == [4 * size - 3 * (i == 0) for i, size in enumerate(sizes)]
    assert torch.equal(torch.cat(streamed, dim=2), vae.decode(latents))


@pytest.mark.parametrize("sizes", ((1, 4, 4, 4), (13,), (5, 8), (3, 1, 6, 3), (2, 2, 2, 7)))
def test_streamed_encoding_is_whole_encoding_bit_for_bit(vae: WanVAE, sizes: tuple[int, ...]) -> None:
    video = random_video(13)
    stream = EncodeStream(vae)
    streamed = [stream.push(piece) for piece in pieces(video, sizes)]
    assert stream.waiting_frames == 0
    assert torch.equal(torch.cat(streamed, dim=2), vae.encode(video))


def test_streams_take_the_same_path_for_other_memory_layouts(vae: WanVAE) -> None:
    latents = random_latents(4, batch=2)
    strided = latents.contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(vae.decode(strided), vae.decode(latents))
    sliced = torch.cat((latents, latents), dim=3)[:, :, :, : latents.shape[3]]
    assert torch.equal(vae.decode(sliced), vae.decode(latents))


def test_every_piece_depends_on_the_past(vae: WanVAE) -> None:
    latents = random_latents(4)
    whole = vae.decode(latents)
    other_start = latents.clone()
    other_start[:, :, 0] += 1.0
    assert not torch.equal(vae.decode(other_start)[:, :, -4:], whole[:, :, -4:])
    other_end = latents.clone()
    other_end[:, :, -1] += 1.0
    assert torch.equal(vae.decode(other_end)[:, :, :-4], whole[:, :, :-4])


def test_incomplete_frames_wait_for_the_next_piece(vae: WanVAE) -> None:
    stream = EncodeStream(vae)
    assert stream.push(random_video(4)).shape == (1, 16, 1, HEIGHT // 8, WIDTH // 8)
    assert stream.waiting_frames == 3
    assert stream.push(random_video(4)[:, :, :1]).shape[2] == 1
    assert stream.push(random_video(4)[:, :, :1]).shape[2] == 0
    assert stream.waiting_frames == 1


def test_a_fork_continues_on_its_own(vae: WanVAE) -> None:
    start, one, other = random_latents(3), random_latents(2, seed=5), random_latents(2, seed=6)
    stream = DecodeStream(vae)
    first = stream.push(start)
    twin = stream.fork()
    ends = {"one": stream.push(one), "other": twin.push(other)}
    assert torch.equal(torch.cat((first, ends["one"]), 2), vae.decode(torch.cat((start, one), 2)))
    assert torch.equal(torch.cat((first, ends["other"]), 2), vae.decode(torch.cat((start, other), 2)))


def test_a_refused_piece_leaves_the_stream_as_it_was(vae: WanVAE) -> None:
    latents = random_latents(4)
    stream = DecodeStream(vae)
    first = stream.push(latents[:, :, :2])
    with pytest.raises(ValueError, match=r"\(1, 4, 3\); its video began with \(1, 4, 6\)"):
        stream.push(latents[:, :, 2:, :, :3])
    with pytest.raises(ValueError, match="batch, 16, frames"):
        stream.push(latents[:, :4])
    assert torch.equal(torch.cat((first, stream.push(latents[:, :, 2:])), 2), vae.decode(latents))


def test_a_stream_interrupted_half_way_does_not_go_on_with_half_a_past(vae: WanVAE) -> None:
    latents = random_latents(2)
    stream = DecodeStream(vae)
    stream.push(latents[:, :, :1])

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    hook = vae.decoder.upsamples[5].register_forward_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            stream.push(latents[:, :, 1:])
    finally:
        hook.remove()
    with pytest.raises(RuntimeError, match="start the video anew"):
        stream.push(latents[:, :, 1:])
    with pytest.raises(RuntimeError, match="start the video anew"):
        stream.fork()


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
    with torch.autocast("cpu", torch.bfloat16):
        result = vae.reconstruct(video)
    assert set(seen) == {(torch.bfloat16, True)}
    exact = vae.reconstruct(video)
    assert (result.mean.float() - exact.mean).abs().mean() < 0.05 * exact.mean.std()


MEMORY_PROBE = """
import resource, sys, torch
from sfpp_core.wan.vae import DecodeStream, EncodeStream, WanVAE, WanVAEConfig
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
torch.set_num_threads(1)
vae = WanVAE(WanVAEConfig(dim=8)).eval()
encoder, decoder = EncodeStream(vae), DecodeStream(vae)
def run(steps):
    for _ in range(steps):
        decoder.push(torch.randn(1, 16, 1, 12, 12))
        encoder.push(torch.rand(1, 3, 4, 96, 96))
run(4)
warm = peak()
run(24)
streamed = peak()
with torch.no_grad():
    vae.decode_clip(torch.randn(1, 16, 24, 12, 12))
print(streamed - warm, peak() - streamed)
"""


def test_streaming_memory_does_not_grow_with_length() -> None:
    command = [sys.executable, "-c", MEMORY_PROBE]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    streamed, whole = map(float, result.stdout.split())
    # In MiB: 24 latent frames whole cost hundreds. The allocator itself moves by a few from run to run.
    assert whole > 100
    assert streamed < 0.1 * whole


def live_bytes() -> int:
    """Of all tensors there are, views counted with the whole of what they keep alive."""
    gc.collect()
    # `isinstance` would ask lazy objects for their class, and wake them.
    storages = [item.untyped_storage() for item in gc.get_objects() if issubclass(type(item), Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_a_stream_keeps_the_same_few_frames_after_every_piece(vae: WanVAE) -> None:
    encoder, decoder = EncodeStream(vae), DecodeStream(vae)
    kept = []
    for _ in range(5):
        decoder.push(random_latents(2))
        encoder.push(random_video(8))
        kept.append(live_bytes())
    assert kept[1:] == [kept[1]] * 4


@pytest.mark.parametrize("num_frames, nearest", ((2, 1), (4, 5), (8, 9), (10, 9), (81 + 2, 85)))
def test_frame_counts_that_do_not_fit_are_refused_with_the_nearest(
    vae: WanVAE, num_frames: int, nearest: int
) -> None:
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


def test_weights_are_taken_over_without_copies_and_checked(vae: WanVAE) -> None:
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


def test_model_space_is_standardised_vae_space() -> None:
    raw = random_latents(2)
    expected = [(raw[:, i] - mean) / std for i, (mean, std) in enumerate(zip(CHANNEL_MEAN, CHANNEL_STD, strict=True))]
    assert torch.equal(to_model_space(raw), torch.stack(expected, dim=1))
    torch.testing.assert_close(to_vae_space(to_model_space(raw)), raw, atol=1e-6, rtol=1e-6)
    assert to_vae_space(torch.zeros(1, 16, 1, 1, 1)).flatten()[0].item() == pytest.approx(-0.7571)
    assert to_model_space(raw.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"\(batch, 16, frames"):
        to_model_space(torch.zeros(1, 4, 2, 2, 2))
