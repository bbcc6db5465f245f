"""Whole clips through a causal network at once: masks let a chunk see what the rolling cache would show it."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.schedule import NUM_TIMESTEPS
from sfpp_core.wan.geometry import WAN21
from sfpp_core.wan.masks import chunk_causal_mask, teacher_forcing_mask, to_tokens
from sfpp_core.wan.transformer import WanTransformer


class CausalPass:
    """The flow of clips of one shape, for any network of the student's kind."""

    def __init__(
        self, rollout: RolloutConfig, *, frames: int, latent_size: tuple[int, int], device: torch.device
    ) -> None:
        """frames: latent frames of a clip. latent_size: height and width of a latent frame."""
        self._rollout = rollout
        self._frames = frames
        self._tokens = WAN21.tokens_per_frame(*latent_size)
        self._device = device

    def after_clean(self, network: WanTransformer, past: Tensor, x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        """Flow of x, every chunk given the clean chunks of `past` before it, as in a rollout (teacher forcing).

        past, x: B C T H W. sigma: noise levels of x, [B, T]; the past is told the context's.
        """
        context = torch.full_like(sigma, self._rollout.context_noise)
        timestep = torch.cat([context, sigma * NUM_TIMESTEPS], dim=1)
        positions = tuple(range(self._frames))
        both = torch.cat([past, x], dim=2)
        flow = network(both, timestep, text, positions=positions + positions, mask=self._clean_mask)
        return flow[:, :, self._frames :]

    def after_noisy(self, network: WanTransformer, x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        """Flow of x, every chunk given the chunks of x itself before it, each at its own noise level [B, T]."""
        return network(x, sigma * NUM_TIMESTEPS, text, mask=self._noisy_mask)

    @cached_property
    def _clean_mask(self) -> Tensor:
        rollout = self._rollout
        mask = teacher_forcing_mask(self._frames, chunk=rollout.chunk, window=rollout.window, sink=rollout.sink)
        return to_tokens(mask, self._tokens).to(self._device)

    @cached_property
    def _noisy_mask(self) -> Tensor:
        rollout = self._rollout
        mask = chunk_causal_mask(self._frames, chunk=rollout.chunk, window=rollout.window, sink=rollout.sink)
        return to_tokens(mask, self._tokens).to(self._device)
