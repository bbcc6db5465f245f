"""Streamed in whatever pieces, the VAE makes what it makes whole, bit for bit, in memory that does not grow."""

from __future__ import annotations

import gc
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from sfpp_core.wan.vae import DecodeStream, EncodeStream, WanVAE
from tests.helpers.memory import needs_peak, probe
from tests.helpers.vae_models import HEIGHT, WIDTH, random_latents, random_vae, random_video


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    return random_vae()


def pieces(video: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    return list(video.split(list(sizes), dim=2))


@pytest.mark.parametrize("sizes", ((1,) * 7, (1, 2, 3, 1), (3, 1, 2, 1), (2, 3, 2), (7,)))
def test_streamed_decoding_is_whole_decoding_bit_for_bit(vae: WanVAE, sizes: tuple[int, ...]) -> None:
    latents = random_latents(7)
    stream = DecodeStream(vae)
    streamed = [stream.push(piece) for piece in pieces(latents, sizes)]
    assert [piece.shape[2] for piece in streamed] == [4 * size - 3 * (i == 0) for i, size in enumerate(sizes)]
    assert torch.equal(torch.cat(streamed, dim=2), vae.decode(latents))


def test_larger_portions_give_the_same_pictures_to_rounding(vae: WanVAE) -> None:
    latents = random_latents(7)
    stream = DecodeStream(vae, portion=3)
    streamed = torch.cat([stream.push(piece) for piece in pieces(latents, (3, 3, 1))], dim=2)
    torch.testing.assert_close(streamed, vae.decode(latents), rtol=0, atol=1e-5)
    assert torch.equal(streamed, DecodeStream(vae, portion=3).push(latents))


@pytest.mark.parametrize("portion", [1, 3])
@pytest.mark.parametrize(("before", "past"), [(0, 12), (0, 8), (0, 3), (3, 12), (5, 2)])
def test_a_past_without_pictures_is_the_same_past_bit_for_bit(
    vae: WanVAE, before: int, past: int, portion: int
) -> None:
    latents = random_latents(before + past + 2, batch=2)
    seen, warmed = DecodeStream(vae, portion=portion), DecodeStream(vae, portion=portion)
    first, middle, last = pieces(latents, (before, past, 2))
    for stream in (seen, warmed):
        if before:
            stream.push(first)
    seen.push(middle)
    warmed.warm_up(middle)
    assert torch.equal(warmed.push(last), seen.push(last))


@pytest.mark.parametrize("temporal_downsample", [(True, False, True), (False, False, False)])
def test_a_past_without_pictures_in_other_networks(temporal_downsample: tuple[bool, ...]) -> None:
    vae = random_vae(temporal_downsample=temporal_downsample)
    latents = random_latents(31)
    warmed = DecodeStream(vae)
    warmed.warm_up(latents[:, :, :30])
    assert torch.equal(warmed.push(latents[:, :, 30:]), vae.decode(latents)[:, :, -vae.config.temporal_stride :])


def test_layers_at_the_rate_of_pictures_pass_over_a_far_past(vae: WanVAE) -> None:
    made = []
    hook = vae.decoder.head.register_forward_hook(lambda _module, _inputs, pictures: made.append(pictures.shape[2]))
    try:
        DecodeStream(vae).warm_up(random_latents(12))
    finally:
        hook.remove()
    assert vae.decoder.picture_context <= sum(made) < vae.decoder.picture_context + 4


def test_a_refused_past_leaves_the_stream_as_it_was(vae: WanVAE) -> None:
    latents = random_latents(13)
    stream = DecodeStream(vae)
    first = stream.push(latents[:, :, :1])
    with pytest.raises(ValueError, match="its video began with"):
        stream.warm_up(latents[:, :, 1:, :, :3])
    with pytest.raises(ValueError, match="batch, 16, frames"):
        stream.warm_up(latents[:, :4])
    assert torch.equal(torch.cat((first, stream.push(latents[:, :, 1:])), 2), vae.decode(latents))


@pytest.mark.parametrize("sizes", ((1, 4, 4, 4), (13,), (5, 8), (3, 1, 6, 3), (2, 2, 2, 7)))
def test_streamed_encoding_is_whole_encoding_bit_for_bit(vae: WanVAE, sizes: tuple[int, ...]) -> None:
    video = random_video(13)
    stream = EncodeStream(vae)
    streamed = [stream.push(piece) for piece in pieces(video, sizes)]
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
    assert stream.push(random_video(4)[:, :, :1]).shape[2] == 1
    assert stream.push(random_video(4)[:, :, :1]).shape[2] == 0
    assert stream.push(random_video(4)[:, :, :3]).shape[2] == 1


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
    with pytest.raises(RuntimeError, match="start the video over"):
        stream.push(latents[:, :, 1:])
    with pytest.raises(RuntimeError, match="start the video over"):
        stream.fork()


MEMORY_PROBE = """
import torch
from sfpp_core.wan.vae import DecodeStream, EncodeStream, WanVAE, WanVAEConfig
from tests.helpers.memory import peak_mib
torch.set_num_threads(1)
vae = WanVAE(WanVAEConfig(dim=8)).eval()
encoder, decoder = EncodeStream(vae), DecodeStream(vae)
def run(steps):
    for _ in range(steps):
        decoder.push(torch.randn(1, 16, 1, 12, 12))
        encoder.push(torch.rand(1, 3, 4, 96, 96))
run(4)
warm = peak_mib()
run(24)
streamed = peak_mib()
with torch.no_grad():
    vae.decode_clip(torch.randn(1, 16, 24, 12, 12))
print(streamed - warm, peak_mib() - streamed)
"""


@needs_peak
def test_streaming_memory_does_not_grow_with_length() -> None:
    streamed, whole = probe(MEMORY_PROBE)
    # 24 latent frames whole cost well above 100 MiB: the probe would see a stream that kept what it should not.
    assert whole > 100
    assert streamed < 2


def live_bytes() -> int:
    """Of all tensors there are, views counted with the whole of what they keep alive."""
    gc.collect()
    # `isinstance` would ask lazy objects for their class, and wake them.
    tensors = (item for item in gc.get_objects() if issubclass(type(item), Tensor))
    # Sparse and fake tensors, which other tests may have left behind, have no storage of their own.
    real = (tensor for tensor in tensors if tensor.layout is torch.strided and not isinstance(tensor, FakeTensor))
    storages = [tensor.untyped_storage() for tensor in real if tensor.device.type == "cpu"]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_a_stream_keeps_the_same_few_frames_after_every_piece(vae: WanVAE) -> None:
    encoder, decoder = EncodeStream(vae), DecodeStream(vae)
    kept = []
    for _ in range(5):
        decoder.push(random_latents(2))
        encoder.push(random_video(8))
        kept.append(live_bytes())
    assert kept[1:] == [kept[1]] * 4
