"""The network calls that a training step is made of, ready to be counted on the meta device or timed on a real one.

One video at a time, in the dtypes in which `self_forcing` and `dmd` call the networks. Weights are as FSDP2's mixed
precision shows them to the forward pass: in the dtype that is computed in. The float32 masters and the gradients that
stay belong to `memory`; here a weight's gradient is dropped as soon as it is there, as a sharded network hands it on.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from sfpp_core.rollout.kv_cache import RollingKVCache
from sfpp_core.wan.attention import sdpa_attention
from sfpp_core.wan.config import WanConfig
from sfpp_core.wan.transformer import KeyValueCache, TextContext, WanTransformer
from sfpp_core.wan.vae import WanVAE

from ..causal_init.data import CausalPass
from ..engine.distributed import recompute_blocks
from ..models.kernels import channels_last_weights
from ..models.sampling import decoded_frames
from ..self_forcing.windows import begin_video
from .config import ScalingConfig
from .counting import Pass
from .kernels import CudaAutocast, autocast_blocks, flash_attention, fuse_norms


@dataclass(frozen=True, slots=True)
class Training:
    """That a pass is differentiated, and how."""

    checkpointing: bool
    """Whether a block keeps nothing but its input and is computed again on the way back."""


class Passes:
    """Makes passes of the sizes in a configuration; each is built with random weights when it is asked for."""

    def __init__(self, config: ScalingConfig, *, device: torch.device, dtype: torch.dtype) -> None:
        self._config = config
        self._device = device
        self.dtype = dtype

    def clip(self, model: WanConfig, training: Training | None = None) -> Pass:
        """A window as teacher and critic see it: all frames at once, no cache, noise and text in float32."""
        text = self.text(model, torch.float32)
        x = self.latents(model, self._config.window.frames, torch.float32)
        return self._pass(self.network(model, training), x, text, cache=None, training=training)

    def teacher_forcing(self, model: WanConfig, training: Training | None = None) -> Pass:
        """A window as `causal_init` starts the student off: all noisy chunks at once, given the clean ones before."""
        network, text, frames = (
            self.network(model, training),
            self.text(model, torch.float32),
            self._config.window.frames,
        )
        x = self.latents(model, frames, torch.float32)
        sigma = torch.full((1, frames), 0.5, device=self._device)
        causal = CausalPass(self._config.rollout, frames=frames)
        forward = partial(causal.after_clean, network, x, x, sigma, text)
        return Pass(forward, backward=training is not None, context=self.autocast)

    def chunk(self, model: WanConfig, past_frames: int, training: Training | None = None) -> Pass:
        """A chunk against a cache that holds `past_frames` latent frames.

        Without a gradient the text's keys and values are there already; with one they are part of the pass.
        """
        network, text = self.network(model, training), self.text(model, self.dtype)
        if training is None:
            with torch.no_grad():
                text = network.embed_text(text)
        x = self.latents(model, self._config.rollout.chunk, self.dtype)
        return self._pass(network, x, text, cache=self._cache(model, past_frames), training=training)

    def texts(self, model: WanConfig) -> Pass:
        """The text's keys and values for every layer."""
        network, text = self.network(model), self.text(model, self.dtype)
        return Pass(lambda: network.embed_text(text).keys[-1], context=self.autocast)

    def first_frames(self, warmup: int) -> Pass:
        """A window's first frames made those of a video, after so many latent frames of warm-up; in float32."""
        past, head = (
            self.latents(self._config.student, frames, torch.float32)
            for frames in (warmup, self._config.window.masked_frames)
        )
        return Pass(partial(begin_video, past, head, self._vae()))

    def watch(self, latent_frames: int) -> Pass:
        """Latents to pixels as videos are watched, a latent frame at a time, in float32; gives the last one's."""
        vae, latents = self._vae(), self.latents(self._config.student, latent_frames, torch.float32)

        def forward() -> Tensor:
            for pictures in decoded_frames(vae, latents):
                last = pictures
            return last

        return Pass(forward)

    def network(self, model: WanConfig, training: Training | None = None) -> WanTransformer:
        """A transformer with random weights, for counting with the kernels that a GPU would take."""
        is_counted = self._device.type == "meta"
        with self._device:
            network = WanTransformer(model, attention=flash_attention if is_counted else sdpa_attention)
        # A fresh head predicts nothing, so that scores would agree and chunks without a gradient be passed over.
        nn.init.xavier_uniform_(network.head.head.weight)
        network.to(self.dtype)
        if is_counted:
            fuse_norms(network)
            autocast_blocks(network, self.dtype)
        if training and training.checkpointing:
            recompute_blocks(network)
        for weight in network.parameters():
            weight.register_post_accumulate_grad_hook(_drop_gradient)
        return network

    def _pass(
        self,
        network: WanTransformer,
        x: Tensor,
        text: Tensor | TextContext,
        *,
        cache: KeyValueCache | None,
        training: Training | None,
    ) -> Pass:
        timesteps = torch.full((1, x.shape[2]), 500.0, device=self._device)
        forward = partial(network, x, timesteps, text, cache=cache)
        return Pass(forward, backward=training is not None, context=self.autocast)

    def autocast(self) -> AbstractContextManager[object]:
        """What networks run in."""
        if self._device.type == "meta":
            return CudaAutocast(self.dtype)
        return torch.autocast(self._device.type, dtype=self.dtype, enabled=self.dtype is not torch.float32)

    def _vae(self) -> WanVAE:
        with self._device:
            vae = WanVAE(self._config.vae)
        channels_last_weights(vae)
        return vae

    def _cache(self, model: WanConfig, past_frames: int) -> RollingKVCache:
        cache = RollingKVCache(
            model,
            self._config.rollout,
            batch=1,
            tokens_per_frame=self._config.tokens_per_frame,
            device=self._device,
            dtype=self.dtype,
        )
        cache.seek(past_frames)
        return cache

    def latents(self, model: WanConfig, frames: int, dtype: torch.dtype) -> Tensor:
        """Noise of one video, [1, C, T, H, W]."""
        shape = (1, model.in_channels, frames, *self._config.latent_size)
        return torch.randn(shape, device=self._device, dtype=dtype)

    def text(self, model: WanConfig, dtype: torch.dtype) -> Tensor:
        """A prompt's embedding, [1, L, text_dim]."""
        return torch.randn(1, self._config.text_tokens, model.text_dim, device=self._device, dtype=dtype)


def _drop_gradient(weight: nn.Parameter) -> None:
    weight.grad = None
