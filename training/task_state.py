"""What a task keeps from step to step, as a checkpoint takes it: all processes' samples together.

A tensor of a task's state has this process's samples on its first axis, so that a run saved by some number of
processes goes on in any other that shares the batch out; plain values are the same in every process.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from .config import require
from .parallel import World

CPU = "cpu"
"""Films wait there between steps, and checkpoints are written from there."""


def of_all(state: Any) -> Any:
    """A task's state with each tensor as the part that it is of all processes' samples."""
    world = World.current()
    if isinstance(state, Tensor):
        tensor = state.detach().to(CPU)
        return tensor if world.size == 1 else DTensor.from_local(tensor, world.mesh(CPU), [Shard(0)])
    if isinstance(state, dict):
        return {key: of_all(value) for key, value in state.items()}
    return [of_all(value) for value in state] if isinstance(state, list | tuple) else state


def like_mine(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """An empty tensor for this process's samples of a tensor that has `shape` over all processes.

    Raises:
        ConfigError: there are as many samples as cannot be shared out equally.
    """
    world = World.current()
    require(len(shape) > 0, "a tensor of a task's state has no axis for samples; keep single numbers as plain values.")
    local = torch.empty(len(world.samples(shape[0])), *shape[1:], dtype=dtype)
    return local if world.size == 1 else DTensor.from_local(local, world.mesh(CPU), [Shard(0)])


def from_all(state: Any) -> Any:
    """A task's state as the task gave it, from what was read into `like_mine`."""
    if isinstance(state, DTensor):
        return state.to_local()
    if isinstance(state, dict):
        return {key: from_all(value) for key, value in state.items()}
    return [from_all(value) for value in state] if isinstance(state, list) else state
