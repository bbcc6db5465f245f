"""Flow matching with teacher forcing: every chunk at a noise level of its own, given the clean past.

A student trained so has never continued a video of its own. To soften that, part of the steps put the student's own
estimate of the past in the place of the true one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.flow import NUM_TIMESTEPS, add_noise, flow_to_x0, generator_for, shift_sigma
from sfpp_core.wan.transformer import WanTransformer

from ..config import require
from ..engine.distributed import DistContext
from ..engine.seeding import normal
from ..engine.supervised import Loss
from .data import CausalPass, Clips, Examples, Texts, draw_examples


def edge_loss(video: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of differences between neighbours, along height, width and time; B C F H W."""
    error = (video - target).float()
    axes = [axis for axis in (2, 3, 4) if error.shape[axis] > 1]
    return sum(error.diff(dim=axis).abs().mean() for axis in axes) / len(axes)


def kl_to_unit_normal(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL divergence of N(mean, exp(logvar)) from the unit normal, in nats, averaged over elements."""
    mean, logvar = mean.float(), logvar.float()
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()


def flow_loss(flow: Tensor, x0: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the predicted flow against noise - x0 (rectified flow, arXiv 2209.03003)."""
    return F.mse_loss(flow.float(), (noise - x0).float())


def stratified_uniform(count: int, generator: torch.Generator) -> Tensor:
    """`count` numbers, one from each of as many equal parts of [0, 1): uniform, with less noise in their mean."""
    return (torch.arange(count) + torch.rand(count, generator=generator)) / count


def draw_steps(rollout: RolloutConfig, chunks: int, seed: int, step: int, *, samples: Sequence[int]) -> Tensor:
    """Draw for every sample and chunk the number of one of the student's steps, uniform; [len(samples), chunks].

    The first chunk may have steps of its own, see `RolloutConfig.first_chunk_steps`.
    """
    generators = [generator_for(seed, "steps", step, sample) for sample in samples]
    first = [torch.randint(len(rollout.first_chunk_timesteps), (1,), generator=each) for each in generators]
    rest = [torch.randint(len(rollout.timesteps), (chunks - 1,), generator=each) for each in generators]
    return torch.cat([torch.stack(first), torch.stack(rest)], dim=1)


def step_sigmas(rollout: RolloutConfig, steps: Tensor) -> Tensor:
    """The noise levels [B, chunks] of steps that `draw_steps` drew."""
    first = torch.tensor(rollout.first_chunk_timesteps)[steps[:, :1]]
    return torch.cat([first, torch.tensor(rollout.timesteps)[steps[:, 1:]]], dim=1) / NUM_TIMESTEPS


def spread_evenly(shift: float, chunks: int, seed: int, step: int, *, batch: int, samples: Sequence[int]) -> Tensor:
    """Shifted noise levels that cover (0, 1) evenly over all chunks of a step; [len(samples), chunks].

    batch: size of the global batch, which `samples` are indices into.
    """
    generator = generator_for(seed, "levels", step)
    sigma = shift_sigma(stratified_uniform(batch * chunks, generator), shift)
    return sigma[torch.randperm(batch * chunks, generator=generator)].reshape(batch, chunks)[list(samples)]


def per_frame(sigma: Tensor, chunk: int) -> Tensor:
    """[B, chunks] to [B, T]."""
    return repeat(sigma, "b k -> b (k t)", t=chunk)


def over_latents(sigma: Tensor) -> Tensor:
    """[B, T] so that it broadcasts against B C T H W."""
    return sigma[:, None, :, None, None]


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowConfig:
    """The objective `flow`."""

    student_timesteps: float = 0.75
    """Share of chunks at one of the student's own timesteps; the rest are anywhere, which keeps the flow smooth."""
    own_past: float = 0.5
    """Share of steps whose past is the student's own estimate of it."""

    def __post_init__(self) -> None:
        for name in ("student_timesteps", "own_past"):
            require(0 <= getattr(self, name) <= 1, f"flow.{name} is {getattr(self, name)}; it must lie in [0, 1].")


class FlowObjective:
    """An `Objective`: predict the flow of noised chunks."""

    def __init__(
        self,
        network: WanTransformer,
        causal: CausalPass,
        clips: Clips,
        texts: Texts,
        *,
        rollout: RolloutConfig,
        settings: FlowConfig,
        seed: int,
        batch: int,
    ) -> None:
        self._network, self._causal = network, causal
        self._clips, self._texts = clips, texts
        self._rollout, self._settings = rollout, settings
        self._seed, self._batch = seed, batch
        self._samples = DistContext.current().samples(batch)

    def batch(self, step: int) -> Examples:
        """See Objective."""
        return draw_examples(self._clips, self._texts, self._seed, step, samples=self._samples)

    def loss(self, batch: Examples, step: int) -> Loss:
        """See Objective."""
        past, own = batch.clips, self._has_own_past(step)
        if own:
            past = self._own_estimate(batch, step)
        sigma = self._sigmas(batch, step).to(past.device)
        noise = self._noise(batch, "noise", step)
        x = add_noise(batch.clips, noise, over_latents(sigma))
        flow = self._causal.after_clean(self._network, past, x, sigma, batch.text)
        total = flow_loss(flow, batch.clips, noise)
        return Loss(total=total, parts={"own_past" if own else "true_past": total.detach()})

    def _has_own_past(self, step: int) -> bool:
        drawn = torch.rand((), generator=generator_for(self._seed, "own past", step))
        return drawn.item() < self._settings.own_past

    @torch.no_grad()
    def _own_estimate(self, batch: Examples, step: int) -> Tensor:
        """The clips as the student itself would leave them: x0 predicted at its last timestep."""
        clips = batch.clips
        last = self._rollout.timesteps[-1] / NUM_TIMESTEPS
        sigma = torch.full((clips.shape[0], clips.shape[2]), last, device=clips.device)
        x = add_noise(clips, self._noise(batch, "past noise", step), last)
        flow = self._causal.after_clean(self._network, clips, x, sigma, batch.text)
        # Before PyTorch 2.11 autocast may keep casts of weights that were made here, without gradients, for the call
        # that is to train them (pytorch/pytorch#112583).
        torch.clear_autocast_cache()
        return flow_to_x0(x, flow.float(), last)

    def _noise(self, batch: Examples, name: str, step: int) -> Tensor:
        noise = normal(batch.clips.shape[1:], self._seed, name, step, samples=batch.samples)
        return noise.to(batch.clips.device)

    def _sigmas(self, batch: Examples, step: int) -> Tensor:
        """Noise levels [B, T], one a chunk."""
        rollout, seed, samples = self._rollout, self._seed, batch.samples
        chunks = batch.clips.shape[2] // rollout.chunk
        steps = step_sigmas(rollout, draw_steps(rollout, chunks, seed, step, samples=samples))
        anywhere = spread_evenly(rollout.shift, chunks, seed, step, batch=self._batch, samples=samples)
        generators = [generator_for(seed, "own step", step, sample) for sample in samples]
        at_step = torch.stack([torch.rand(chunks, generator=generator) for generator in generators])
        return per_frame(torch.where(at_step < self._settings.student_timesteps, steps, anywhere), rollout.chunk)
