"""Causal consistency distillation: what the student makes of two neighbouring points of the teacher's ODE is the same.

Consistency distillation (arXiv 2303.01469, algorithm 2; with guidance arXiv 2310.04378), chunk by chunk given the clean
past, as Causal-Forcing does in place of the ODE regression. The parametrisation x0 = x - sigma v needs no further
boundary condition: at sigma 0 it is x itself.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.flow import add_noise, flow_to_x0, generator_for
from sfpp_core.wan.transformer import WanTransformer

from ..config import require
from ..engine.distributed import DistContext
from ..engine.seeding import normal
from ..engine.supervised import Loss
from ..models.sampling import guided, student_grid
from .data import CausalPass, Clips, Examples, Texts, draw_examples
from .flow import over_latents, per_frame


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsistencyConfig:
    """The objective `consistency`.

    Its teacher, which the student starts as, must be causal itself, as objective `flow` makes it: a bidirectional one
    does not know chunks at noise levels of their own.
    """

    steps: int = 48
    """Of the teacher's ODE, evenly spaced before the student's shift, the student's own among them."""
    usual_guidance: float = 3.0
    """Of the teacher: negative + usual_guidance * (prompt - negative); 1 for none."""

    def __post_init__(self) -> None:
        require(self.steps >= 2, f"consistency.steps is {self.steps}; it must be at least 2, e.g. 48.")


class ConsistencyObjective:
    """An `Objective`."""

    def __init__(
        self,
        network: WanTransformer,
        teacher: WanTransformer,
        causal: CausalPass,
        clips: Clips,
        texts: Texts,
        *,
        averaged: Callable[[], AbstractContextManager[None]],
        rollout: RolloutConfig,
        settings: ConsistencyConfig,
        seed: int,
        batch: int,
    ) -> None:
        """averaged: makes the network hold its moving average, which is the target that it moves to.

        Raises:
            ConfigError: the student's steps are not among the ODE's.
        """
        self._network, self._teacher, self._causal = network, teacher, causal
        self._clips, self._texts = clips, texts
        self._averaged = averaged
        self._chunk, self._settings = rollout.chunk, settings
        self._grid = torch.tensor(student_grid(rollout, settings.steps))
        self._seed = seed
        self._samples = DistContext.current().samples(batch)

    def batch(self, step: int) -> Examples:
        """See Objective."""
        return draw_examples(self._clips, self._texts, self._seed, step, samples=self._samples)

    def loss(self, batch: Examples, step: int) -> Loss:
        """Mean squared error between the student at a noise level and its average one ODE step below."""
        clips = batch.clips
        numbers = self._numbers(batch, step)
        sigma, following = (per_frame(self._grid[n], self._chunk).to(clips.device) for n in (numbers, numbers + 1))
        noise = normal(clips.shape[1:], self._seed, "noise", step, samples=batch.samples).to(clips.device)
        x = add_noise(clips, noise, over_latents(sigma))
        # Before the student's own pass: averages come and go in the weights that its graph is about to refer to.
        target = self._target(batch, x, sigma, following)
        total = F.mse_loss(self._x0(batch, x, sigma), target)
        return Loss(total=total, parts={})

    @torch.no_grad()
    def _target(self, batch: Examples, x: Tensor, sigma: Tensor, following: Tensor) -> Tensor:
        """Return what the average makes of the point one ODE step of the teacher's from x; [B, T] both noise levels."""
        negative = self._texts.negative(len(x)).to(x.device)
        flow = guided(
            lambda text: self._causal.after_clean(self._teacher, batch.clips, x, sigma, text),
            batch.text,
            negative,
            usual_guidance=self._settings.usual_guidance,
        )
        with self._averaged():
            # Autocast keeps what it cast of a weight, and would not see that the weight is another now.
            torch.clear_autocast_cache()
            target = self._x0(batch, x + over_latents(following - sigma) * flow, following)
        torch.clear_autocast_cache()
        return target

    def _x0(self, batch: Examples, x: Tensor, sigma: Tensor) -> Tensor:
        flow = self._causal.after_clean(self._network, batch.clips, x, sigma, batch.text)
        return flow_to_x0(x, flow.float(), over_latents(sigma))

    def _numbers(self, batch: Examples, step: int) -> Tensor:
        """Return which step of the ODE each chunk takes, uniform; [B, chunks]."""
        chunks = batch.clips.shape[2] // self._chunk
        generators = [generator_for(self._seed, "ode step", step, sample) for sample in batch.samples]
        drawn = [torch.randint(self._settings.steps, (chunks,), generator=generator) for generator in generators]
        return torch.stack(drawn)
