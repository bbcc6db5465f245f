"""Regression to the end of the teacher's trajectories, from wherever the student's steps are on them.

CausVid (arXiv 2412.07772) and Self-Forcing (arXiv 2506.08009) start their students off so. There the past of a chunk
is the noisy chunks of the same trajectory, each at a step of its own; Causal-Forcing gives the clean ones, as a rollout
does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.flow import NUM_TIMESTEPS, flow_to_x0
from sfpp_core.wan.transformer import WanTransformer

from ..config import require
from ..data.trajectories import OdeTrajectories
from ..engine.distributed import DistContext
from ..engine.supervised import Loss
from .data import CausalPass, Texts, draw
from .flow import draw_steps, over_latents, per_frame

CONTEXTS = ("noisy", "clean")


@dataclass(frozen=True, kw_only=True, slots=True)
class OdeConfig:
    """The objective `ode`."""

    context: str = "noisy"
    """What a chunk sees of the past: noisy, the trajectory's chunks at steps of their own (CausVid, Self-Forcing), or
    clean, where the trajectory ends (Causal-Forcing)."""

    def __post_init__(self) -> None:
        require(self.context in CONTEXTS, f"ode.context is {self.context!r}; it must be one of {', '.join(CONTEXTS)}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class OdeBatch:
    """Trajectories, each chunk where its drawn step finds it."""

    x: Tensor
    """B C T H W, model space, float32."""
    sigma: Tensor
    """[B, T]: the noise levels that x is at; above 0, for at the end there is nothing to learn."""
    ends: Tensor
    """B C T H W: where the trajectories end."""
    text: Tensor
    """[B, L, text_dim], float32."""
    samples: range
    """Which of the global batch they are."""


class OdeObjective:
    """An `Objective`: jump from a state of the trajectory to its end."""

    def __init__(
        self,
        network: WanTransformer,
        causal: CausalPass,
        trajectories: OdeTrajectories,
        texts: Texts,
        *,
        rollout: RolloutConfig,
        settings: OdeConfig,
        seed: int,
        batch: int,
    ) -> None:
        """Raises ConfigError if the trajectories were kept at other noise levels than the student's steps."""
        self._network, self._causal = network, causal
        self._trajectories, self._texts = trajectories, texts
        self._rollout, self._settings = rollout, settings
        self._seed = seed
        self._samples = DistContext.current().samples(batch)
        self._first = self._states_at(rollout.first_chunk_timesteps)
        self._rest = self._states_at(rollout.timesteps)

    def batch(self, step: int) -> OdeBatch:
        """See Objective."""
        samples = self._samples
        draws = draw(len(self._trajectories), self._seed, step, samples=samples)
        chunks = self._trajectories.shape[1] // self._rollout.chunk
        steps = draw_steps(self._rollout, chunks, self._seed, step, samples=samples)
        numbers = per_frame(
            torch.cat([self._first[steps[:, :1]], self._rest[steps[:, 1:]]], dim=1), self._rollout.chunk
        )
        states = [self._trajectories.states(each.index) for each in draws]
        frames = torch.arange(self._trajectories.shape[1])
        return OdeBatch(
            # Each frame from the state that its chunk is at; advanced indices come first: T C H W.
            x=torch.stack([state[at, :, frames].transpose(0, 1) for state, at in zip(states, numbers, strict=True)]),
            sigma=torch.tensor(self._trajectories.sigmas)[numbers],
            ends=torch.stack([state[-1] for state in states]),
            text=self._texts.text_of([self._trajectories.prompts[each.index] for each in draws]),
            samples=samples,
        )

    def loss(self, batch: OdeBatch, step: int) -> Loss:
        """Mean squared error of the predicted x0."""
        if self._settings.context == "clean":
            flow = self._causal.after_clean(self._network, batch.ends, batch.x, batch.sigma, batch.text)
        else:
            flow = self._causal.after_noisy(self._network, batch.x, batch.sigma, batch.text)
        x0 = flow_to_x0(batch.x, flow.float(), over_latents(batch.sigma))
        return Loss(total=F.mse_loss(x0, batch.ends), parts={})

    def _states_at(self, timesteps: tuple[float, ...]) -> Tensor:
        sigmas = [timestep / NUM_TIMESTEPS for timestep in timesteps]
        return torch.tensor(self._trajectories.numbers_of(sigmas))
