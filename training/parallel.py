"""One process or many: who handles which samples of a step, what all must agree on, and joining and leaving.

Under torchrun every process runs the same stage on a part of each batch (gloo on CPUs, NCCL on GPUs, one GPU a
process). Alone there is no process group, and everything here answers without one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from .config import require


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """One process's place among all of a run."""

    rank: int = 0
    size: int = 1

    @classmethod
    def alone(cls) -> World:
        """The only process of its run."""
        return cls()

    @classmethod
    def current(cls) -> World:
        """This process's place in the run that it has joined; alone if it has joined none."""
        if dist.is_available() and dist.is_initialized():
            return cls(rank=dist.get_rank(), size=dist.get_world_size())
        return cls.alone()

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and logs."""
        return self.rank == 0

    def samples(self, batch: int, *, key: str = "batch") -> range:
        """The samples of a global batch that this process handles, equally many in every process.

        key: what the configuration calls their number, for the refusal.

        Raises:
            ConfigError: the batch cannot be shared out equally.
        """
        require(
            batch % self.size == 0,
            f"{key} is {batch} for {self.size} processes; it must be a multiple of their number.",
        )
        share = batch // self.size
        return range(self.rank * share, (self.rank + 1) * share)

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Averages over all processes, which must give the same names; NaN and infinity of one become everybody's."""
        if self.size == 1:
            return dict(values)
        total = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(total)
        return dict(zip(values, (total / self.size).tolist(), strict=True))

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is set in at least one process; all processes wait for one another here."""
        if self.size == 1:
            return flags
        raised = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(raised, dist.ReduceOp.MAX)
        return tuple(bool(flag) for flag in raised.tolist())

    def meet(self) -> None:
        """Go on once every process has come here."""
        self.any(False)

    def mesh(self, device_type: str) -> DeviceMesh:
        """All processes in a row, for tensors that are split among them. Only where there are several."""
        return _mesh(device_type, self.size)


@cache
def _mesh(device_type: str, size: int) -> DeviceMesh:
    return init_device_mesh(device_type, (size,))


def launched_rank() -> int:
    """This process's number among those that torchrun has started, whether it joins them or not."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Join the other processes that torchrun has started, if any, for the length of the block.

    Raises:
        ConfigError: `device` names one GPU for several processes, or there are more processes here than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World.alone()
        return
    if device.type == "cuda":
        _take_a_gpu(device, local_rank=int(os.environ["LOCAL_RANK"]))
    # Flags, metrics and checkpoints travel between CPUs in either case.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    yield World.current()
    # Not after an error: the others may be waiting in a collective that will never be complete.
    _mesh.cache_clear()
    dist.destroy_process_group()


def _take_a_gpu(device: torch.device, *, local_rank: int) -> None:
    require(
        device.index is None,
        f"run.device is {device}, one GPU for several processes; write run.device=cuda and each takes its own.",
    )
    count = torch.cuda.device_count()
    require(
        local_rank < count,
        f"there are {count} GPUs here and more processes than that; start torchrun with --nproc-per-node {count}.",
    )
    torch.cuda.set_device(local_rank)
