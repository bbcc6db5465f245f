"""Whole clips through a causal network at once: a chunk sees what the rolling cache would show it."""

from __future__ import annotations

import torch
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.flow import NUM_TIMESTEPS
from sfpp_core.wan.attention import chunk_causal, num_past, teacher_forcing
from sfpp_core.wan.transformer import WanTransformer


class CausalPass:
    """The flow of clips of one length, for any network of the student's kind."""

    def __init__(self, rollout: RolloutConfig, *, frames: int) -> None:
        """frames: latent frames of a clip."""
        sizes = {"chunk": rollout.chunk, "window": rollout.window, "sink": rollout.sink}
        self._context_noise = rollout.context_noise
        self._num_past = num_past(frames, chunk=rollout.chunk)
        self._positions = (*range(self._num_past), *range(frames))
        self._after_clean = teacher_forcing(range(frames), **sizes)
        self._after_noisy = chunk_causal(range(frames), **sizes)

    def after_clean(self, network: WanTransformer, past: Tensor, x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        """Flow of x, every chunk given the clean chunks of `past` before it, as in a rollout (teacher forcing).

        past, x: B C T H W; the last chunk of `past` is nobody's past. sigma: noise levels of x, [B, T]; the past is
        told the context's.
        """
        context = torch.full_like(sigma[:, : self._num_past], self._context_noise)
        timestep = torch.cat([context, sigma * NUM_TIMESTEPS], dim=1)
        both = torch.cat([past[:, :, : self._num_past], x], dim=2)
        flow = network(both, timestep, text, positions=self._positions, visibility=self._after_clean)
        return flow[:, :, self._num_past :]

    def after_noisy(self, network: WanTransformer, x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        """Flow of x, every chunk given the chunks of x itself before it, each at its own noise level [B, T]."""
        return network(x, sigma * NUM_TIMESTEPS, text, visibility=self._after_noisy)
