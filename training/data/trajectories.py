"""Trajectories of the teacher's ODE on disk: what the student has to learn to jump along.

A shard holds `states` [B, S, C, T, H, W], model space, float16, and says at which noise levels they are, of which
prompts, and which teacher made them how. A trajectory is read when it is drawn: all of a real run's are 340 GB.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import ConfigError, require
from .shards import Shard, ShardFolder, open_shard, read_header

ALIKE = ("sigmas", "teacher", "usual_guidance", "seed")
"""Entries of the header in which all shards of a folder agree."""
TOLERANCE = 1e-9


def trajectory_shards(folder: Path) -> ShardFolder:
    """The shards of a folder of trajectories."""
    return ShardFolder(folder, "trajectories")


def trajectory_shard(states: Tensor, prompts: Sequence[str], header: dict[str, Any]) -> Shard:
    """Trajectories as a shard. header: the entries of ALIKE, and more."""
    return Shard(tensors={"states": states.to(torch.float16)}, header={"prompts": list(prompts), **header})


class OdeTrajectories:
    """The trajectories of a folder of the ode_pairs stage, by number."""

    def __init__(self, folder: str) -> None:
        """Raises ConfigError if there are none or not all of them, or if shards were made in different ways."""
        self._folder = folder
        paths = trajectory_shards(Path(folder)).whole(stage="ode_pairs")
        require(bool(paths), f"{folder} holds no trajectories; make them with: python -m training ode_pairs")
        headers = [read_header(path) for path in paths]
        for path, header in zip(paths, headers, strict=True):
            differing = [name for name in ALIKE if header[name] != headers[0][name]]
            require(
                not differing,
                f"{path} was made with another {', '.join(differing)} than {paths[0].name}; make the trajectories "
                "again in a new folder.",
            )
        self.sigmas: tuple[float, ...] = tuple(headers[0]["sigmas"])
        self.prompts: list[str] = [prompt for header in headers for prompt in header["prompts"]]
        self._places = [
            (path, row) for path, header in zip(paths, headers, strict=True) for row in range(len(header["prompts"]))
        ]
        with open_shard(paths[0]) as file:
            self.shape: tuple[int, ...] = tuple(file.get_slice("states").get_shape()[2:])

    def __len__(self) -> int:
        return len(self.prompts)

    def states(self, index: int) -> Tensor:
        """A trajectory at each of `sigmas`, [S, C, T, H, W], float32."""
        path, row = self._places[index]
        with open_shard(path) as file:
            return file.get_slice("states")[row].float()

    def clip(self, index: int) -> Tensor:
        """Return where a trajectory ends, [C, T, H, W], float32."""
        path, row = self._places[index]
        with open_shard(path) as file:
            return file.get_slice("states")[row, -1].float()

    def prompt(self, index: int, wording: int) -> str:
        """Its prompt; a trajectory has one wording only."""
        del wording
        return self.prompts[index]

    def numbers_of(self, sigmas: Sequence[float]) -> list[int]:
        """Return which of the states are at these noise levels.

        Raises:
            ConfigError: the trajectories were made for a student of other steps or another shift.
        """
        numbers = []
        for sigma in sigmas:
            number = min(range(len(self.sigmas)), key=lambda each: abs(self.sigmas[each] - sigma))
            if abs(self.sigmas[number] - sigma) > TOLERANCE:
                raise ConfigError(
                    f"{self._folder} holds states at the noise levels {_listed(self.sigmas)}, but the student's steps "
                    f"are at {_listed(sigmas)}; make the trajectories again with this student's steps and shift."
                )
            numbers.append(number)
        return numbers


def _listed(sigmas: Sequence[float]) -> str:
    return ", ".join(f"{sigma:.4g}" for sigma in sigmas)
