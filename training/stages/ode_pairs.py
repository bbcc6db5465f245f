"""Trajectories of the teacher's probability-flow ODE, kept where the student's steps are (CausVid, arXiv 2412.07772).

Every trajectory starts from noise of its own, whoever makes it: number n follows from the seed and n. Processes share
the shards among themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfpp_core.wan.config import WAN21
from sfpp_core.wan.transformer import WanTransformer

from ..config import StageConfig, core_refusals, require
from ..data.prompt_embeds import Conditioning, ConditioningConfig
from ..data.shards import Shard, read_header
from ..data.trajectories import trajectory_shard, trajectory_shards
from ..engine.run_folder import RunFolder
from ..engine.seeding import normal
from ..models.export import StudentConfig
from ..models.kernels import attention_on, compile_network
from ..models.open import fingerprint, open_transformer
from ..models.sampling import euler_states, student_grid, student_sigmas, teacher_velocity


@dataclass(frozen=True, kw_only=True, slots=True)
class OdePairsStageConfig(StageConfig):
    """The ode_pairs stage. A run is resumed at the first shard that is missing."""

    teacher: str
    """File of the bidirectional teacher."""
    conditioning: ConditioningConfig
    """Prompts; once all have had their turn, the first has another, from other noise."""
    student: StudentConfig
    """Its steps and its shift say which states are kept."""
    trajectories: int
    """How many; the paper has 16,000."""
    height: int
    """Of the videos, in pixels."""
    width: int
    frames: int = 21
    """Latent frames of a trajectory."""
    steps: int = 48
    """Euler steps, evenly spaced before the student's shift."""
    usual_guidance: float
    """negative + usual_guidance * (prompt - negative): 6 for Wan 2.1, 3 for the built-in family; 1 for none."""
    shard: int = 20
    """Trajectories a file; 0.4 GB at 832x480."""
    batch: int = 4
    """Trajectories made at once."""

    def __post_init__(self) -> None:
        StageConfig.__post_init__(self)
        for name in ("trajectories", "frames", "steps", "shard", "batch"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1.")
        require(
            self.trajectories % self.shard == 0,
            f"trajectories is {self.trajectories}; it must be a multiple of shard, {self.shard}.",
        )
        with core_refusals():
            WAN21.latent_size(self.height, self.width)
            rollout = self.student.rollout()
        student_grid(rollout, self.steps)


class _Maker:
    """Makes shards."""

    def __init__(
        self, config: OdePairsStageConfig, network: WanTransformer, conditioning: Conditioning, made_by: dict
    ) -> None:
        rollout = config.student.rollout()
        self._config = config
        self._network = network
        self._conditioning = conditioning
        self._made_by = made_by
        self._grid = student_grid(rollout, config.steps)
        self._kept = (*student_sigmas(rollout), 0.0)

    def shard(self, index: int) -> Shard:
        config = self._config
        numbers = range(index * config.shard, (index + 1) * config.shard)
        states = torch.cat(
            [self._states(numbers[first : first + config.batch]) for first in range(0, config.shard, config.batch)]
        )
        prompts = [self._conditioning.prompts[self._prompt(number)] for number in numbers]
        return trajectory_shard(states, prompts, {"sigmas": self._kept, **self._made_by})

    @torch.no_grad()
    def _states(self, numbers: range) -> Tensor:
        """[B, S, C, T, H, W] on the CPU."""
        config = self._config
        shape = (self._network.config.in_channels, config.frames, *WAN21.latent_size(config.height, config.width))
        noise = normal(shape, config.seed, "trajectory", samples=numbers).to(config.device)
        text = self._conditioning.text([self._prompt(number) for number in numbers]).to(config.device)
        negative = self._conditioning.negative(len(numbers)).to(config.device)
        velocity = teacher_velocity(self._network, text, negative, usual_guidance=config.usual_guidance)
        with config.autocast():
            passed = zip(self._grid, euler_states(velocity, noise, self._grid), strict=True)
            kept = [state.cpu() for sigma, state in passed if sigma in self._kept]
        return torch.stack(kept, dim=1)

    def _prompt(self, number: int) -> int:
        return number % len(self._conditioning.prompts)


CONFIG = OdePairsStageConfig


def run(config: OdePairsStageConfig) -> bool:
    """Integrate until this process's shards are there or `run.max_minutes` are over; True when finished."""
    conditioning = Conditioning.open(config.conditioning, device=config.device)
    text_dim = conditioning.negative(1).shape[-1]
    network = open_transformer(config.teacher, key="teacher", kind="teacher", text_dim=text_dim)
    # Last: the folder then belongs to this configuration, and one that names a wrong file should own none.
    shards = trajectory_shards(RunFolder(config, stage="ode_pairs").path)
    made_by = _made_by(config, network)
    for path in shards.present().values():
        require(
            read_header(path)["teacher"] == made_by["teacher"],
            f"{path} was made by another teacher than {config.teacher} is now; choose another run.out.",
        )
    network.attention = attention_on(config.device)
    network.requires_grad_(False).to(config.device, config.compute_dtype)
    if config.run.compile:
        compile_network(network)
    maker = _Maker(config, network, conditioning, made_by)
    return shards.make(config.trajectories // config.shard, maker.shard, max_minutes=config.run.max_minutes)


def _made_by(config: OdePairsStageConfig, network: WanTransformer) -> dict[str, Any]:
    """Return what a shard says of its making."""
    return {
        "teacher": {"file": Path(config.teacher).name, "fingerprint": fingerprint(network)},
        "usual_guidance": config.usual_guidance,
        "seed": config.seed,
        "steps": config.steps,
        "shift": config.student.shift,
    }
