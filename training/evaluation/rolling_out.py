"""Films of a student as pictures, piece by piece, in the ways of going on that are compared.

A film's noise depends on its own seed alone, so it is the same film in whatever batch it is made, up to the rounding of
batched kernels; alone it is what the pack's sampler makes of that seed.

Axes: B film, C latent channel, T latent frame, F frame, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.flow import NUM_TIMESTEPS, add_noise
from sfpp_core.rollout.rollout import Encoding, Rollout
from sfpp_core.rollout.state import RolloutState
from sfpp_core.wan.config import WAN21, to_model_space
from sfpp_core.wan.transformer import WanTransformer
from sfpp_core.wan.vae import WanVAE

from ..film_noise import FilmNoise
from ..sampling import UNSAVED
from .decoding import FilmDecoder

CONTEXT_STEP = -1
"""In the place of a denoising step: the noise of a chunk on its way into the cache."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cast:
    """Films that are made together."""

    text: Tensor
    """[B, L, text_dim], on the device of the networks."""
    seeds: tuple[int, ...]
    """One a film."""
    latent_size: tuple[int, int]
    """Height and width in latent cells."""
    latent_frames: int
    """What is needed of each film; a whole number of chunks may be more."""


class NoisyPast(Rollout):
    """A rollout that sees its past through noise: a chunk enters the cache as (1 - s) x0 + s eps, told s.

    s is the settings' context noise. Self-Forcing++ tries this against drift (arXiv 2510.02283, ablations): what the
    student does not see exactly it cannot copy exactly.
    """

    def _commit(self, encoding: Encoding, *, given: bool) -> float:
        sigma = 0.0 if given else self.state.config.context_noise / NUM_TIMESTEPS
        chunk = encoding.chunk
        noise = self._noise(self._cache.num_frames, CONTEXT_STEP, tuple(chunk.latents.shape))
        noised = replace(chunk, latents=add_noise(chunk.latents, noise, sigma))
        return super()._commit(replace(encoding, chunk=noised), given=given)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Student:
    """A network and the way it goes on."""

    network: WanTransformer
    vae: WanVAE
    settings: RolloutConfig
    dtype: torch.dtype = torch.float32
    """What the network is called and remembers in."""
    noisy_past: bool = False
    """Whether the context noise is really added."""
    overlap: int = 0
    """Latent frames that are kept when the cache is dropped; 0 rolls the cache."""

    def film(self, cast: Cast) -> Iterator[Tensor]:
        """The pictures of the films in order, pieces of B 3 F H W in [-1, 1]; more than asked for by part of a chunk.

        Memory grows by the latents alone: 4 kB a film and latent frame at 64x64, 400 kB at 832x480.
        """
        return self._restarted(cast) if self.overlap else self._rolled(cast)

    def _rolled(self, cast: Cast) -> Iterator[Tensor]:
        """With the rolling cache, as the pack's sampler goes on."""
        decoder = FilmDecoder(self.vae)
        rollout = self._rollout(cast, self._empty(cast), FilmNoise(cast.seeds))
        for chunk in rollout.run(self.settings.chunks_for(cast.latent_frames)):
            yield decoder.push(chunk.latents)

    def _restarted(self, cast: Cast) -> Iterator[Tensor]:
        """Window after window, the last frames of one being the start of the next (CausVid, arXiv 2412.07772).

        Wan's first latent frame is a single picture, so the frame that the overlap begins with is decoded and encoded
        as one; the frames after it stay the latents that they are, as in CausVid's published long rollouts. The film
        shows each picture once, as its first window has it.
        """
        start, shown = None, 0
        made = 0
        while made < cast.latent_frames:
            state = self._empty(cast) if start is None else self._empty(cast).with_given(start, cast.text)
            # No two windows may share noise, and no window has more chunks than frames.
            rollout = self._rollout(cast, state, FilmNoise(cast.seeds, first_chunk=made))
            for _ in rollout.run((self.settings.window - state.num_frames) // self.settings.chunk):
                pass
            made += self.settings.window - state.num_frames
            latents = rollout.state.latents.to(cast.text.device)
            pictures = FilmDecoder(self.vae).push(latents)
            yield pictures[:, :, shown:]
            shown = WAN21.pixel_frames(self.overlap)
            first = pictures[:, :, pictures.shape[2] - shown].unsqueeze(2)
            image = to_model_space(self.vae.encode(first).float())
            start = torch.cat([image, latents[:, :, latents.shape[2] - self.overlap + 1 :]], dim=2)

    def _rollout(self, cast: Cast, state: RolloutState, noise: FilmNoise) -> Rollout:
        kind = NoisyPast if self.noisy_past else Rollout
        return kind(self.network, state, cast.text, device=cast.text.device, dtype=self.dtype, noise=noise)

    def _empty(self, cast: Cast) -> RolloutState:
        shape = (len(cast.seeds), self.network.config.in_channels, *cast.latent_size)
        return RolloutState(config=self.settings, seed=cast.seeds[0], model_id=UNSAVED, shape=shape)
