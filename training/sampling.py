"""How training looks at what it has made: the teacher's sampler, the student's rollout, and latents to pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.flow import NoiseSource, SeededNoise, shift_sigma
from sfpp_core.rollout.rollout import Rollout
from sfpp_core.rollout.state import RolloutState
from sfpp_core.tiny.text import TinyTextEncoder
from sfpp_core.wan.config import to_vae_space
from sfpp_core.wan.transformer import WanTransformer
from sfpp_core.wan.vae import DecodeStream, WanVAE

from .ode import euler_states, teacher_velocity

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
    where it comes from, `seed` by default. The cache is that of all B films.
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
    """The films of `sample_student`, each rolled out on its own: memory is that of one film's cache."""
    films = len(text)
    return torch.cat(
        [
            sample_student(
                network,
                text[film : film + 1],
                config=config,
                seed=seed,
                frames=frames,
                size=size,
                dtype=dtype,
                noise=_OneFilmsNoise(source=SeededNoise(seed), film=film, films=films),
            )
            for film in range(films)
        ]
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _OneFilmsNoise:
    """The noise that a film has among others, for that film alone."""

    source: NoiseSource
    film: int
    films: int
    """How many the others and it are."""

    def __call__(self, chunk: int, step: int, shape: tuple[int, ...]) -> Tensor:
        """See `sfpp_core.rollout.flow.NoiseSource`; shape[0] is 1."""
        noise = self.source(chunk, step, (self.films, *shape[1:]))
        return noise[self.film : self.film + 1]


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
    config, (films, _, frames, height, width) = vae.config, latents.shape
    size = (height * config.spatial_stride, width * config.spatial_stride)
    videos = torch.empty(films, 3, (frames - 1) * config.temporal_stride + 1, *size)
    with torch.autocast(next(vae.parameters()).device.type, enabled=False):
        for film, video in zip(latents.split(1), videos.split(1), strict=True):
            done = 0
            for pictures in decoded_frames(vae, film):
                video[:, :, done : done + pictures.shape[2]] = pictures
                done += pictures.shape[2]
    return videos


def decoded_frames(vae: WanVAE, film: Tensor) -> Iterator[Tensor]:
    """The pictures of each latent frame of a film, 1 C T H W in model space, in turn; 1 3 f H W in [-1, 1] where the
    autoencoder is."""
    weight, stream = next(vae.parameters()), DecodeStream(vae)
    for frame in film.split(1, dim=2):
        yield stream.push(to_vae_space(frame.to(weight)))
