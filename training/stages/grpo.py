"""GRPO: the student's own videos of a prompt compared with one another, and those that move evenly made more likely.

A step takes `groups` prompts and rolls out `group_size` videos of each, exactly as inference would from their seeds. It
rewards each video by its optical flow (grpo/reward.py), then takes `policy.updates` optimiser steps on that one batch:
the videos are played again chunk by chunk, and each transition's part of the clipped objective (grpo/objective.py) is
back-propagated at once. Memory is that of one network call's graph, one cache, and the videos' latents.

`steps` counts batches of videos; `optimizer.warmup` and `optimizer.decay` count updates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfpp_core.rollout.flow import derived_seed, generator_for
from sfpp_core.rollout.state import RolloutState
from sfpp_core.wan.transformer import WanTransformer

from ..config import require
from ..data.prompt_embeds import Conditioning
from ..engine.distributed import DistContext, gathered, place, place_frozen, rollout_weights
from ..engine.loop import train
from ..engine.metrics import MetricsLogger
from ..engine.micro_batches import micro_batches
from ..engine.model_state import TrainableModel
from ..engine.seeding import VideoNoise
from ..grpo.objective import (
    PolicyBatch,
    PolicyConfig,
    Trajectory,
    advantages,
    backpropagate_lessons,
    record,
    reference_estimates,
)
from ..grpo.reward import decoded_flow, flow_reward, flow_variance, motion_floor
from ..models.export import training_record, write_student
from ..models.open import open_autoencoder, open_transformer
from ..models.sampling import UNSAVED, decode
from ..self_forcing.config import OwnVideosConfig
from ..self_forcing.rollouts import RolloutInputs

WATCHED_VIDEOS = 6
SHORTEST_VIDEO = 3
"""Latent frames: 9 pictures, and so the 8 pairs of a window of the reward."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GrpoStageConfig(OwnVideosConfig):
    """The grpo stage.

    The starting student also says how much videos should move, and what the penalty holds to. The autoencoder is there
    because the reward is read off decoded frames.
    """

    policy: PolicyConfig = field(default_factory=PolicyConfig)
    groups: int = 4
    """Prompts a step; a multiple of the number of processes, because a group is judged where it is made."""
    group_size: int = 8
    """Videos of each. `accumulate` says in how many parts a process rolls out and replays all of its videos."""
    frames: int = 42
    """Latent frames of a video, a multiple of the chunk."""
    least_motion: float = 0.25
    """Share of the starting student's mean flow below which a window counts as standing still."""
    starting_films: int = 2
    """Videos of the starting student that tell its mean flow, for each prompt when it first comes."""

    def __post_init__(self) -> None:
        OwnVideosConfig.__post_init__(self)
        require(
            not self.run.compile,
            "run.compile is on, but grpo has nothing to compile: a student's calls grow with its cache, each length a "
            "shape of its own. Write run.compile=false.",
        )
        chunk = self.student.chunk
        for name in ("groups", "starting_films"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1.")
        require(
            self.group_size >= 2, f"group_size is {self.group_size}; videos are compared, so it must be at least 2."
        )
        require(0 < self.least_motion <= 1, f"least_motion is {self.least_motion:g}; it must lie in (0, 1], e.g. 0.25.")
        require(
            self.frames % chunk == 0 and self.frames >= SHORTEST_VIDEO,
            f"frames is {self.frames}; it must be a multiple of student.chunk, {chunk}, and at least {SHORTEST_VIDEO}.",
        )

    @property
    def updates_a_step(self) -> int:
        """See TrainConfig."""
        return self.policy.updates


class GrpoTask:
    """A student that learns by comparing its own videos."""

    def __init__(self, config: GrpoStageConfig) -> None:
        self._config = config
        device = config.device
        self._conditioning = Conditioning.open(config.conditioning, device=device)
        self._vae = open_autoencoder(config.vae).to(device).requires_grad_(False)
        # Placed before the student is opened: every process of a machine holds a whole network until then.
        self._start = self._open_student(config.compute_dtype)
        place_frozen(self._start, config)
        student = self._open_student(torch.float32)
        place(student, config)
        updates = config.steps * config.updates_a_step
        self._student = TrainableModel(student, config.optimizer, steps=updates, name="student")
        self.networks: Mapping[str, TrainableModel] = {"student": self._student}
        self._groups = DistContext.current().samples(config.groups, key="groups")
        self._parts = micro_batches(range(len(self._groups) * config.group_size), config.accumulate)
        self._starting_flow: dict[int, float] = {}

    def batch(self, step: int) -> None:
        """Nothing: the student makes its own videos."""

    def train_step(self, batch: None, step: int) -> dict[str, float]:
        """Make videos, judge them, learn from them; see loop.Task."""
        del batch
        config = self._config
        prompts, _ = self.drawn(step)
        made = self.videos(step)
        flows = [flow for trajectory in made for flow in decoded_flow(self._vae, trajectory.made.latents)]
        self._measure_start(prompts)
        rewards = torch.tensor(self._rewards(flows, prompts), dtype=torch.float64)
        rewards = rewards.reshape(len(self._groups), config.group_size)

        advantage = advantages(rewards).flatten()
        lessons = [self._lesson(videos, advantage[part], step) for videos, part in zip(made, self._parts, strict=True)]
        updates = [self._update(lessons, step * config.policy.updates + nth) for nth in range(config.policy.updates)]
        return {
            "reward": rewards.mean().item(),
            "reward_spread": rewards.std(dim=1, correction=0).mean().item(),
            **self._motion(flows, prompts),
            **{name: float(np.mean([update[name] for update in updates])) for name in updates[0]},
        }

    def drawn(self, step: int) -> tuple[list[int], list[int]]:
        """Prompt, by number, and seed of every video that this process makes in a step; those of a group lie together.

        Pure functions of (seed, step, group) and (seed, step, video of the whole step).
        """
        seed, size, count = self._config.seed, self._config.group_size, len(self._conditioning.prompts)
        generators = [generator_for(seed, "prompt", step, group) for group in self._groups]
        drawn = [int(torch.randint(count, (), generator=generator)) for generator in generators]
        prompts = [prompt for prompt in drawn for _ in range(size)]
        videos = range(self._groups.start * size, self._groups.stop * size)
        return prompts, [derived_seed(seed, "film", step, video) for video in videos]

    def videos(self, step: int) -> list[Trajectory]:
        """Make those videos, by the student as it is now, in the parts that they are handled in."""
        network = self._student.network
        prompts, seeds = self.drawn(step)
        with rollout_weights(network, self._config):
            return [
                self._videos(network, [prompts[video] for video in part], [seeds[video] for video in part])
                for part in self._parts
            ]

    def state(self) -> dict[str, Any]:
        """Nothing but the student survives a stop: videos, and the starting student's motion, follow from the seed."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to do."""

    def watch(self, log: MetricsLogger, step: int) -> None:
        """Log the same videos of the first prompts every time, and how they move."""
        prompts = range(min(WATCHED_VIDEOS, len(self._conditioning.prompts)))
        seeds = [derived_seed(self._config.seed, "watch", prompt) for prompt in prompts]
        # One after the other: a video's cache is there at a time.
        videos = (
            self._videos(self._student.network, [prompt], [seed]) for prompt, seed in zip(prompts, seeds, strict=True)
        )
        latents = torch.cat([video.made.latents for video in videos])
        log.videos("films", decode(self._vae, latents), step)
        flows = decoded_flow(self._vae, latents)
        self._measure_start(prompts)
        figures = {"reward": float(np.mean(self._rewards(flows, prompts))), **self._motion(flows, prompts)}
        log.scalars({f"watched/{name}": value for name, value in figures.items()}, step)

    def export(self, folder: Path, *, steps: int) -> None:
        """student.safetensors, as the nodes load it."""
        record = training_record(self._config, stage="grpo", steps=steps)
        write_student(folder / "student.safetensors", self._student.network, self._config.student, record)

    def _open_student(self, dtype: torch.dtype) -> WanTransformer:
        """Open the student as it starts."""
        text_dim = self._conditioning.negative(1).shape[-1]
        return open_transformer(self._config.init, key="init", kind="student", text_dim=text_dim, dtype=dtype)

    def _videos(self, network: WanTransformer, prompts: Sequence[int], seeds: Sequence[int]) -> Trajectory:
        """A video of each prompt by number, the one that inference makes from its seed."""
        config = self._config
        videos = RolloutInputs(
            text=self._conditioning.text(prompts),
            noise=VideoNoise(tuple(seeds)),
            device=config.device,
            dtype=config.compute_dtype,
        )
        rollout = config.student.rollout()
        shape = (len(prompts), network.config.in_channels, *config.latent_size)
        beginning = RolloutState(config=rollout, seed=config.seed, model_id=UNSAVED, shape=shape)
        return record(network, beginning, videos, chunks=rollout.chunks_for(config.frames), autocast=config.autocast)

    def _measure_start(self, prompts: Iterable[int]) -> None:
        """See that the starting student's mean flow is known for each prompt: a function of the seed, measured once."""
        count, seed = self._config.starting_films, self._config.seed
        # Processes have different prompts, and so ask a different number of times.
        with gathered(self._start):
            for prompt in sorted(set(prompts) - self._starting_flow.keys()):
                seeds = [derived_seed(seed, "start", prompt, video) for video in range(count)]
                latents = self._videos(self._start, [prompt] * count, seeds).made.latents
                self._starting_flow[prompt] = float(np.mean(decoded_flow(self._vae, latents)))

    def _rewards(self, flows: Sequence[NDArray[np.float64]], prompts: Sequence[int]) -> list[float]:
        floors = [motion_floor(self._starting_flow[prompt], self._config.least_motion) for prompt in prompts]
        return [flow_reward(flow, floor) for flow, floor in zip(flows, floors, strict=True)]

    def _motion(self, flows: Sequence[NDArray[np.float64]], prompts: Sequence[int]) -> dict[str, float]:
        """Return how much videos move, beside those of the starting student, and how evenly; means over videos."""
        return {
            "flow": float(np.mean(flows)),
            "starting_flow": float(np.mean([self._starting_flow[prompt] for prompt in prompts])),
            "flow_variance": float(np.mean([flow_variance(video) for video in flows])),
        }

    def _lesson(self, trajectory: Trajectory, advantage: Tensor, step: int) -> PolicyBatch:
        config = self._config
        chosen = config.policy.choose(len(trajectory.transitions), generator_for(config.seed, "transitions", step))
        references: list[Tensor] = []
        if config.policy.kl:
            references = reference_estimates(self._start, trajectory, chosen, autocast=config.autocast)
        return PolicyBatch(trajectory=trajectory, advantage=advantage, chosen=chosen, references=references)

    def _update(self, lessons: Sequence[PolicyBatch], number: int) -> dict[str, float]:
        config = self._config
        network = self._student.network
        figures = backpropagate_lessons(network, lessons, config.policy, autocast=config.autocast)
        return {**figures, **self._student.update(number)}


CONFIG = GrpoStageConfig


def run(config: GrpoStageConfig) -> bool:
    """Train; True when finished."""
    return train(GrpoTask(config), config, stage="grpo")
