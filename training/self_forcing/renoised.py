"""Backward noise initialisation as algorithm 1 of Self-Forcing++ (arXiv 2510.02283) writes it.

A finished window is noised again to one of the student's timesteps and denoised once more, all of its chunks in one
parallel pass: each sees the clean chunks before it, those of the window beside it and those before the window in the
cache. What is clean comes from the rollout and has no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import repeat
from torch import Tensor

from sfpp_core.rollout.flow import NUM_TIMESTEPS, add_noise, flow_to_x0
from sfpp_core.rollout.kv_cache import RollingKVCache
from sfpp_core.wan.attention import num_past, teacher_forcing
from sfpp_core.wan.config import WAN21
from sfpp_core.wan.transformer import WanTransformer

from .recording import Recording


@dataclass(frozen=True, slots=True, eq=False)
class _WindowPast:
    """The cache of the frames before a window, beside which the window lies twice: what of it is past, then noised."""

    cache: RollingKVCache
    beside: tuple[int, ...]
    """Absolute indices of the frames that lie there."""
    clean_tokens: int

    def positions(self, num_frames: int) -> tuple[int, ...]:
        return self.beside[:num_frames]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        past = self.cache.contents(layer)
        return tuple(self._beside(old, new) for old, new in zip(past, (keys, values), strict=True))

    def _beside(self, past: Tensor, window: Tensor) -> Tensor:
        clean, noised = window[:, : self.clean_tokens], window[:, self.clean_tokens :]
        return torch.cat([past.to(window.dtype), clean.detach(), noised], dim=1)


def denoise_again(network: WanTransformer, recording: Recording, noise: Tensor, timestep: float) -> Tensor:
    """x0 of the recorded frames, noised to `timestep` (0..1000) and denoised once; float32 [B, C, T, H, W].

    With gradients on it has one, through the noised frames alone.
    """
    films, config = recording.films, recording.before.config
    rollout = films.rollout(network, recording.before)
    with torch.no_grad():
        cache = rollout.past()
    frames = range(recording.before.num_frames, recording.after.num_frames)
    clean = recording.after.latents[:, :, frames.start :].to(films.device)
    count = num_past(len(frames), chunk=config.chunk)
    sigma = timestep / NUM_TIMESTEPS
    noised = add_noise(clean, noise.to(films.device), sigma)
    timesteps = torch.tensor([config.context_noise] * count + [timestep] * len(frames), device=films.device)
    past = _WindowPast(cache, (*frames[:count], *frames), count * WAN21.tokens_per_frame(*clean.shape[-2:]))
    flow = network(
        torch.cat([clean[:, :, :count], noised], dim=2).to(films.dtype),
        repeat(timesteps, "t -> b t", b=len(clean)),
        films.text.to(films.device, films.dtype),
        cache=past,
        visibility=teacher_forcing(
            frames, chunk=config.chunk, window=config.window, sink=config.sink, past=cache.visible_frames()
        ),
    )
    return flow_to_x0(noised, flow[:, :, count:].float(), sigma)
