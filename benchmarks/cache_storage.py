"""What it costs to keep the past in fewer bytes: `python -m benchmarks.cache_storage`.

Prints the tables of docs/memory.md: bytes for Wan 2.1 1.3B at 832x480; the error of one attention on random tensors of
its shape; and for the built-in student, against its videos as computed, the error of every attention, the videos' PSNR,
their Visual Stability and flow, and the processor time of a chunk. All in one run, in turn.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.kv_quantization import CACHE_FORMS, CacheForm, Quantizer, codecs
from sfpp_core.rollout.memory import CacheMemory, CacheStorage
from sfpp_core.rollout.rollout import Rollout
from sfpp_core.rollout.state import RolloutState
from sfpp_core.stability.measure import measure
from sfpp_core.stability.metrics import LongVideoMetrics
from sfpp_core.stability.offline.judge import OfflineJudge
from sfpp_core.stability.score import visual_stability
from sfpp_core.tiny.family import load_family_text_encoder, load_student, load_vae
from sfpp_core.video.span import VideoSpan
from sfpp_core.wan.attention import sdpa_attention
from sfpp_core.wan.config import FRAMES_PER_SECOND, WAN21, WanConfig, to_vae_space
from sfpp_core.wan.transformer import WanTransformer

WAN_1_3B = WanConfig(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30, text_dim=4096)
WAN_LATENT_SIZE = WAN21.latent_size(480, 832)
WINDOWS = (21, 12)
LATENT_SIZE = (8, 8)
STORAGES = tuple(CacheStorage(form=form, offloaded=place) for place in (False, True) for form in CACHE_FORMS)
EIGHT_BITS = {
    "fp8": codecs("fp8"),
    "int8": codecs("int8"),
    "int8, keys scaled as values": (codecs("int8")[1], codecs("int8")[1]),
}
"""Forms whose error is measured; the last is what the cache would be without scales for channels."""
VIDEO_SECONDS = 20
PARTS = ((0, 1), (1, 5), (5, 20))
"""Seconds over which PSNR is averaged: two that part slowly part for ever."""
LARGE_CHANNELS = (16, 6.0)
"""In the second set of random keys every 16th channel is 6 times as large, as some are in trained models."""
PROMPTS = (
    "A red ball glides quickly to the right in a green meadow with flowers.",
    "A blue boat bounces slowly up and down at sea.",
)


def describe(storage: CacheStorage) -> str:
    """A storage's name in the tables."""
    return f"{storage.form}{', CPU memory' if storage.offloaded else ''}"


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Norm of the difference over the norm of what is right."""
    return float((found.double() - exact.double()).norm() / exact.double().norm())


def kept(keys: Tensor, values: Tensor, form: tuple[Quantizer, Quantizer], tokens: int) -> Iterator[Tensor]:
    """Keys and values [B, L, N, D] as they come back from a form."""
    for codec, side in zip(form, (keys, values), strict=True):
        frames = rearrange(side, "b (f t) n d -> b f t n d", t=tokens)
        decoded = codec.decode(codec.encode(frames), torch.empty_like(frames))
        yield rearrange(decoded, "b f t n d -> b (f t) n d")


def print_bytes() -> None:
    """Memory of the cache of Wan 2.1 1.3B at 832x480 in bfloat16."""
    tokens = WAN21.tokens_per_frame(*WAN_LATENT_SIZE)
    for storage in STORAGES:
        for window in WINDOWS:
            memory = CacheMemory.of(
                WAN_1_3B,
                RolloutConfig(window=window),
                storage,
                batch=1,
                tokens_per_frame=tokens,
                dtype=torch.bfloat16,
            )
            per_frame = (memory.cpu if storage.offloaded else memory.device) / window / 1e6
            print(
                f"{describe(storage):22} window {window}: {per_frame:6.1f} MB a latent frame, "
                f"{memory.device / 1e9:.2f} GB on the device, {memory.cpu / 1e9:.2f} GB of CPU memory"
            )


def print_random_attention(num_frames: int = 3, num_queries: int = 256) -> None:
    """Errors of keys, values and one attention over random tensors of the 1.3B model's shape."""
    tokens = WAN21.tokens_per_frame(*WAN_LATENT_SIZE)
    generator = torch.Generator().manual_seed(0)
    heads = (WAN_1_3B.num_heads, WAN_1_3B.head_dim)
    queries = torch.randn(1, num_queries, *heads, generator=generator)
    keys, values = torch.randn(2, 1, num_frames * tokens, *heads, generator=generator)
    every, factor = LARGE_CHANNELS
    large = keys.clone()
    large[..., ::every] *= factor
    for name, side in (("normal keys", keys), ("some channels large", large)):
        exact = sdpa_attention(queries, side, values)
        for form, form_codecs in EIGHT_BITS.items():
            new_keys, new_values = kept(side, values, form_codecs, tokens)
            out = relative_error(sdpa_attention(queries, new_keys, new_values), exact)
            errors = relative_error(new_keys, side), relative_error(new_values, values), out
            print(f"{name:22} {form}: keys {errors[0]:.4f}, values {errors[1]:.4f}, attention {errors[2]:.4f}")


@dataclass(slots=True)
class AttentionErrors:
    """An attention function that notes what each form would have made of its past."""

    tokens: int
    chunk_tokens: int
    errors: dict[str, list[float]] = field(default_factory=dict)

    def __call__(self, q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> Tensor:
        exact = sdpa_attention(q_BLHD, k_BSHD, v_BSHD)
        if q_BLHD.shape[1] == self.chunk_tokens and k_BSHD.shape[1] > 2 * self.chunk_tokens:
            for form, form_codecs in EIGHT_BITS.items():
                found = sdpa_attention(q_BLHD, *kept(k_BSHD, v_BSHD, form_codecs, self.tokens))
                self.errors.setdefault(form, []).append(relative_error(found, exact))
        return exact


def print_student_attention(network: WanTransformer, config: RolloutConfig, text: Tensor) -> None:
    """Errors of the built-in student's attentions in five seconds of video."""
    tokens = WAN21.tokens_per_frame(*LATENT_SIZE)
    watcher = AttentionErrors(tokens=tokens, chunk_tokens=config.chunk * tokens)
    network.attention, usual = watcher, network.attention
    video(network, config, text, seed=0, storage=CacheStorage(), seconds=5)
    network.attention = usual
    for form, errors in watcher.errors.items():
        print(f"{form}: attention error {statistics.mean(errors):.4f} on average, {max(errors):.4f} at most")


def video(
    network: WanTransformer, config: RolloutConfig, text: Tensor, *, seed: int, storage: CacheStorage, seconds: int
) -> tuple[Tensor, list[float]]:
    """Latents of a video in model space, [1, C, T, H, W], and the seconds of processor time that each chunk took."""
    shape = (1, WAN21.channels, *LATENT_SIZE)
    state = RolloutState(config=config, seed=seed, model_id="benchmark", shape=shape, cache_form=storage.form)
    rollout = Rollout(network, state, text, cache_memory=torch.zeros if storage.offloaded else None)
    times, started = [], time.process_time()
    for _ in rollout.run(config.chunks_for(WAN21.latent_frames(seconds * FRAMES_PER_SECOND))):
        times.append(time.process_time() - started)
        started = time.process_time()
    return rollout.state.latents, times


@dataclass(frozen=True, slots=True)
class Figures:
    """A video, decoded and measured."""

    pictures: Tensor
    """T H W C in [0, 1]."""
    stability: float
    flow: float

    @classmethod
    def of(cls, latents: Tensor, decode: object, prompt: str) -> Figures:
        """Decode and judge a video."""
        pictures = rearrange(decode(to_vae_space(latents)), "1 c t h w -> t h w c").float()
        pictures = ((pictures + 1) / 2).clamp(0, 1)[: VIDEO_SECONDS * FRAMES_PER_SECOND]
        footage = VideoSpan.from_images(pictures)
        metrics = LongVideoMetrics.of(measure(footage))
        return cls(pictures, visual_stability(footage, prompt, OfflineJudge()).score, metrics.mean_flow)


def psnr(found: Tensor, exact: Tensor, start: int, end: int) -> float:
    """Peak signal-to-noise ratio in dB over the seconds from `start` to `end`."""
    span = slice(start * FRAMES_PER_SECOND, end * FRAMES_PER_SECOND)
    error = (found[span] - exact[span]).square().mean()
    return float(-10 * torch.log10(error.clamp_min(1e-12)))


def print_videos(network: WanTransformer, config: RolloutConfig, texts: list[Tensor], num_seeds: int) -> None:
    """Videos in every storage, from the same seeds."""
    vae = load_vae()
    times: dict[CacheStorage, list[float]] = {storage: [] for storage in STORAGES}
    figures: dict[CacheForm, list[Figures]] = {form: [] for form in CACHE_FORMS}
    for seed in range(num_seeds):
        prompt = seed % len(PROMPTS)
        exact: dict[CacheForm, Tensor] = {}
        for storage in STORAGES:
            latents, seconds = video(network, config, texts[prompt], seed=seed, storage=storage, seconds=VIDEO_SECONDS)
            times[storage].append(statistics.median(seconds[len(seconds) // 2 :]))
            if storage.form in exact:
                assert torch.equal(latents, exact[storage.form]), "where the past rests has changed a video"
                continue
            exact[storage.form] = latents
            figures[storage.form].append(Figures.of(latents, vae.decode, PROMPTS[prompt]))
    for form, videos in figures.items():
        print(
            f"{form}: stability {_mean(video.stability for video in videos)}, "
            f"flow {_mean(video.flow for video in videos)}"
        )
        if form != "computed":
            for start, end in PARTS:
                values = [
                    psnr(f.pictures, p.pictures, start, end) for f, p in zip(videos, figures["computed"], strict=True)
                ]
                print(f"{form}: PSNR of seconds {start} to {end}: {_mean(values)} dB, lowest {min(values):.1f}")
    plain = statistics.median(times[STORAGES[0]])
    for storage, seconds in times.items():
        median = statistics.median(seconds)
        print(f"{describe(storage):22} {median * 1000:.1f} ms a chunk, {median / plain:.3f} of as computed")


def _mean(values: Iterator[float] | list[float]) -> str:
    """Mean and standard error."""
    values = list(values)
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4g} +- {error:.2g}"


@torch.inference_mode()
def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cache_storage", description=__doc__)
    parser.add_argument("--seeds", type=int, default=8, help="videos of each kind; 0 for none")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print_bytes()
    print_random_attention()
    network, config = load_student()
    encoder = load_family_text_encoder()
    texts = [encoder.encode([prompt]) for prompt in PROMPTS]
    print_student_attention(network, config, texts[0])
    if options.seeds:
        print_videos(network, config, texts, options.seeds)


if __name__ == "__main__":
    sys.exit(main())
