"""Samples of networks in training: the teacher's, the student's, and latents to pixels.

The teacher follows its probability-flow ODE, dx / dsigma = v (rectified flow, arXiv 2209.03003), in Euler steps.

`VideoDecoder` decodes many small videos side by side, three quarters of an evaluation. With the built-in autoencoder, 8
videos of 64x64 and bfloat16 on one core of a Xeon, a latent frame of a video takes 21 ms as the pack does it, 17.5 in
portions of three frames with weights laid out channels last, and 9.5 compiled besides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import torch
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.flow import NUM_TIMESTEPS, NoiseSource, SeededNoise, shift_sigma, warp_steps
from sfpp_core.rollout.rollout import Rollout
from sfpp_core.rollout.state import RolloutState
from sfpp_core.tiny.text import TinyTextEncoder
from sfpp_core.wan.config import to_vae_space
from sfpp_core.wan.transformer import WanTransformer
from sfpp_core.wan.vae import DecodeStream, WanVAE

from ..config import require

Velocity = Callable[[Tensor, float], Tensor]
"""The flow of latents at a noise level."""


def guided(flow: Callable[[Tensor], Tensor], text: Tensor, negative: Tensor, *, usual_guidance: float) -> Tensor:
    """Classifier-free guidance (arXiv 2207.12598) in the usual form, negative + usual_guidance * (text - negative).

    flow: of the same latents, told one text or the other. 1 asks for the conditional flow alone.
    """
    conditional = flow(text).float()
    if usual_guidance == 1:
        return conditional
    base = flow(negative).float()
    return base + usual_guidance * (conditional - base)


def teacher_velocity(network: WanTransformer, text: Tensor, negative: Tensor, *, usual_guidance: float) -> Velocity:
    """The guided flow of a bidirectional teacher, all frames at one noise level; text, negative: [B, L, text_dim]."""

    def velocity(x: Tensor, sigma: float) -> Tensor:
        timestep = torch.full((x.shape[0], x.shape[2]), sigma * NUM_TIMESTEPS, device=x.device)
        return guided(lambda told: network(x, timestep, told), text, negative, usual_guidance=usual_guidance)

    return velocity


def euler_states(velocity: Velocity, noise: Tensor, sigmas: Sequence[float]) -> Iterator[Tensor]:
    """The latents at each of the falling `sigmas`, the noise itself first."""
    x = noise
    yield x
    for sigma, following in pairwise(sigmas):
        x = x + (following - sigma) * velocity(x, sigma)
        yield x


def student_sigmas(rollout: RolloutConfig) -> tuple[float, ...]:
    """The noise levels that a student is ever asked at, falling."""
    timesteps = {*rollout.timesteps, *rollout.first_chunk_timesteps}
    return tuple(sorted((timestep / NUM_TIMESTEPS for timestep in timesteps), reverse=True))


def student_grid(rollout: RolloutConfig, steps: int) -> tuple[float, ...]:
    """Steps + 1 noise levels from 1 to 0, evenly spaced before the student's shift, the student's own among them.

    Self-Forcing's pairs were made with the teacher's shift, 8, and used for a student of shift 5, whose steps are
    elsewhere; here the student's own levels are on the grid bit for bit.

    Raises:
        ConfigError: one of the student's steps would lie between two of the grid's.
    """
    sigmas = [shift_sigma(1 - place / steps, rollout.shift) for place in range(steps + 1)]
    own = {*rollout.steps, *rollout.first_chunk_steps}
    divisor = math.lcm(*((1 - Fraction(step / NUM_TIMESTEPS).limit_denominator(1000)).denominator for step in own))
    require(
        steps % divisor == 0,
        f"steps is {steps}, but the student's {', '.join(f'{step:g}' for step in sorted(own, reverse=True))} must be "
        f"among the ODE's; write a multiple of {divisor}, e.g. steps={-(-steps // divisor) * divisor}.",
    )
    for step, timestep in zip(own, warp_steps(own, rollout.shift), strict=True):
        sigmas[round((1 - step / NUM_TIMESTEPS) * steps)] = timestep / NUM_TIMESTEPS
    return tuple(sigmas)


UNSAVED = "training"
"""Identity of a network that is still being trained; no state of it is kept."""


@torch.no_grad()
def sample_teacher(
    network: WanTransformer,
    text: Tensor,
    unconditional: Tensor,
    noise: Tensor,
    *,
    steps: int,
    shift: float,
    guidance: float,
) -> Tensor:
    """Integrate the probability-flow ODE from noise with Euler steps; model space, B C T H W.

    guidance: usual form, uncond + guidance * (cond - uncond); 1 uses the conditional flow alone.
    text, unconditional: [B, L, text_dim].
    """
    sigmas = shift_sigma(torch.linspace(1, 0, steps + 1), shift).tolist()
    velocity = teacher_velocity(network, text, unconditional, usual_guidance=guidance)
    *_, x = euler_states(velocity, noise.to(text.device), sigmas)
    return x


@torch.no_grad()
def sample_student(
    network: WanTransformer,
    text: Tensor,
    *,
    config: RolloutConfig,
    seed: int,
    frames: int,
    size: tuple[int, int],
    dtype: torch.dtype = torch.float32,
    noise: NoiseSource | None = None,
) -> Tensor:
    """Roll the student out to at least `frames` latent frames, exactly as inference does; model space, B C T H W.

    text: [B, L, text_dim]. size: latent height and width. dtype: what the network is called and remembers in. noise:
    where it comes from, `seed` by default. The cache is that of all B videos.
    """
    shape = (len(text), network.config.in_channels, *size)
    state = RolloutState(config=config, seed=seed, model_id=UNSAVED, shape=shape)
    rollout = Rollout(network, state, text, device=text.device, dtype=dtype, noise=noise)
    for _ in rollout.run(config.chunks_for(frames)):
        pass
    return rollout.state.latents


def sample_one_by_one(
    network: WanTransformer,
    text: Tensor,
    *,
    config: RolloutConfig,
    seed: int,
    frames: int,
    size: tuple[int, int],
    dtype: torch.dtype,
) -> Tensor:
    """The videos of `sample_student`, each rolled out on its own: memory is that of one video's cache."""
    videos = len(text)
    return torch.cat(
        [
            sample_student(
                network,
                text[video : video + 1],
                config=config,
                seed=seed,
                frames=frames,
                size=size,
                dtype=dtype,
                noise=_OneVideosNoise(source=SeededNoise(seed), video=video, videos=videos),
            )
            for video in range(videos)
        ]
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _OneVideosNoise:
    """The noise that a video has among others, for that video alone."""

    source: NoiseSource
    video: int
    videos: int
    """How many the others and it are."""

    def __call__(self, chunk: int, step: int, shape: tuple[int, ...]) -> Tensor:
        """See `sfpp_core.rollout.flow.NoiseSource`; shape[0] is 1."""
        noise = self.source(chunk, step, (self.videos, *shape[1:]))
        return noise[self.video : self.video + 1]


@torch.no_grad()
def encode_prompts(encoder: TinyTextEncoder, prompts: Sequence[str]) -> Tensor:
    """[B, L, text_dim], float32, where the encoder is."""
    return encoder.encode(list(prompts)).float()


@torch.no_grad()
def decode(vae: WanVAE, latents: Tensor) -> Tensor:
    """Model-space latents of whole clips to pixels, B 3 F H W in [-1, 1], float32 on the CPU.

    One clip at a time and one latent frame of it, whose pictures leave the autoencoder's device at once: memory there
    does not grow with the clips. In the precision of the weights, whatever autocast the caller is under.
    """
    config, (clips, _, frames, height, width) = vae.config, latents.shape
    size = (height * config.spatial_stride, width * config.spatial_stride)
    videos = torch.empty(clips, 3, (frames - 1) * config.temporal_stride + 1, *size)
    with torch.autocast(next(vae.parameters()).device.type, enabled=False):
        for clip, video in zip(latents.split(1), videos.split(1), strict=True):
            done = 0
            for pictures in decoded_frames(vae, clip):
                video[:, :, done : done + pictures.shape[2]] = pictures
                done += pictures.shape[2]
    return videos


def decoded_frames(vae: WanVAE, video: Tensor) -> Iterator[Tensor]:
    """Yield the pictures of each latent frame of a video.

    video: 1 C T H W in model space. Pictures: 1 3 f H W in [-1, 1], where the autoencoder is.
    """
    weight, stream = next(vae.parameters()), DecodeStream(vae)
    for frame in video.split(1, dim=2):
        yield stream.push(to_vae_space(frame.to(weight)))


PORTION = 3
"""Latent frames decoded at once: a chunk of most students, and a divisor of a window's 21."""


class VideoDecoder:
    """Latents of videos to pictures, piece by piece, wherever and in whatever precision the autoencoder is."""

    def __init__(self, vae: WanVAE) -> None:
        self._stream = DecodeStream(vae, portion=PORTION)
        self._weight = next(vae.parameters())

    def push(self, latents: Tensor) -> Tensor:
        """The next latents, B C T h w in model space and best a whole number of portions, to B 3 F 8h 8w in [-1, 1]."""
        return self._stream.push(to_vae_space(latents).to(self._weight))


def compile_decoder(vae: WanVAE) -> None:
    """Compile in place, a minute or two at the first pieces of a video. The weights must not change any more."""
    # Frozen weights are laid out once for oneDNN, which is most of the gain.
    vae.decoder.compile(dynamic=False, options={"freezing": True})
