"""Data that a run makes once and later runs read: numbered safetensors files, each whole or not there.

What a shard says of itself lies in its header, every entry as JSON. A process that is killed leaves whole shards only,
and the same command goes on at those that are missing. Processes of one run share the shards among themselves.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from sfpp_core.files import replacing

from .parallel import World

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """What a shard holds."""

    tensors: Mapping[str, Tensor]
    header: Mapping[str, Any]
    """Plain values, as JSON has them."""


@dataclass(frozen=True, slots=True)
class ShardFolder:
    """The shards of one kind in a folder."""

    folder: Path
    kind: str
    """First word of the files' names."""

    def path(self, index: int) -> Path:
        """File of a shard."""
        return self.folder / f"{self.kind}-{index:05d}.safetensors"

    def paths(self) -> Iterator[Path]:
        """The shards from the first to the last before one that is missing."""
        for index in count():
            if not self.path(index).is_file():
                return
            yield self.path(index)

    def write(self, index: int, shard: Shard) -> None:
        """Write a shard, whole or not at all."""
        with replacing(self.path(index)) as temporary:
            tensors = {name: tensor.contiguous() for name, tensor in shard.tensors.items()}
            header = {name: json.dumps(value) for name, value in shard.header.items()}
            save_file(tensors, str(temporary), metadata=header)

    def make(
        self,
        num_shards: int,
        make: Callable[[int], Shard],
        *,
        max_minutes: float | None,
        world: World | None = None,
    ) -> bool:
        """Make the missing ones among shards 0..num_shards until all are there or the time is over; True when done.

        world: by default the processes that this one has joined. Each makes every so many-th shard and answers for no
            other; `make` must give the same for a shard whoever asks.
        """
        world = world or World.current()
        own = range(world.rank, num_shards, world.size)
        missing = [index for index in own if not self.path(index).is_file()]
        started = time.monotonic()
        made = len(own) - len(missing)
        for index in tqdm(missing, total=len(own), initial=made, unit="shard", disable=not world.is_main):
            if max_minutes is not None and time.monotonic() - started > 60 * max_minutes:
                logger.info("%s paused before shard %d of %d; the same command goes on", self.kind, index, num_shards)
                return False
            self.write(index, make(index))
        logger.info("%s: all %d shards of this process are in %s", self.kind, len(own), self.folder)
        return True


def read_header(path: Path) -> dict[str, Any]:
    """What a shard says of itself."""
    with safe_open(path, framework="pt") as file:
        return {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
