"""How training looks at what it has made: the teacher's sampler, the student's rollout, and latents to pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.rollout import Rollout
from sfpp_core.rollout.schedule import shift_sigma
from sfpp_core.rollout.state import RolloutState
from sfpp_core.tiny.text import TinyTextEncoder
from sfpp_core.wan.latent_format import to_vae_space
from sfpp_core.wan.transformer import WanTransformer
from sfpp_core.wan.vae import WanVAE

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
    network: WanTransformer, text: Tensor, *, config: RolloutConfig, seed: int, frames: int, size: tuple[int, int]
) -> Tensor:
    """Roll the student out to at least `frames` latent frames, exactly as inference does; model space, B C T H W.

    text: [B, L, text_dim]. size: latent height and width.
    """
    shape = (len(text), network.config.in_channels, *size)
    state = RolloutState(config=config, seed=seed, model_id=UNSAVED, shape=shape)
    rollout = Rollout(network, state, text, device=text.device)
    for _ in rollout.run(config.chunks_for(frames)):
        pass
    return rollout.state.latents


@torch.no_grad()
def encode_prompts(encoder: TinyTextEncoder, prompts: Sequence[str]) -> Tensor:
    """[B, L, text_dim], float32, where the encoder is."""
    return encoder.encode(list(prompts)).float()


@torch.no_grad()
def decode(vae: WanVAE, latents: Tensor) -> Tensor:
    """Model-space latents of whole clips to pixels, B 3 F H W in [-1, 1] on the CPU.

    One clip at a time, to bound memory, where the autoencoder is.
    """
    device = next(vae.parameters()).device
    clips = (to_vae_space(latent.to(device)) for latent in latents.split(1))
    return torch.cat([vae.decode_clip(clip).float().clamp(-1, 1).cpu() for clip in clips])
