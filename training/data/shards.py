"""Data that a run makes once and later runs read: numbered safetensors files, each whole or not there.

What a shard says of itself lies in its header, every entry as JSON, and so does how many shards there are in all, so
that a folder that is not finished is known for one. A process that is killed leaves whole shards only, and the same
command goes on at those that are missing. Processes of one run share the shards among themselves.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from sfpp_core.files import replacing
from sfpp_core.sealed_file import CHECKSUM, FORMAT_VERSION, VERSION, check_own_seal, checksum

from ..config import ConfigError
from ..engine.checks import require_numbers
from ..engine.distributed import DistContext

logger = logging.getLogger(__name__)

TOTAL = "shards"
"""Entry of the header that says how many shards there are in all; shards of earlier versions have none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """The content of a shard."""

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

    def present(self) -> dict[int, Path]:
        """The shards that are there, by number, rising; others may be missing among them."""
        paths = self.folder.glob(f"{self.kind}-*.safetensors")
        numbers = {path.stem.removeprefix(f"{self.kind}-"): path for path in paths}
        return dict(sorted((int(number), path) for number, path in numbers.items() if number.isdecimal()))

    def whole(self, *, stage: str) -> list[Path]:
        """Return all shards in order, or none where there is not one. stage: which stage makes them.

        Raises:
            ConfigError: shards are missing, or some belong to another run. Of shards of earlier versions, which do not
                say how many they are, only those before the last one are missed.
        """
        present = self.present()
        totals = {read_header(path).get(TOTAL) for path in present.values()} - {None}
        if len(totals) > 1:
            raise ConfigError(
                f"{self.folder} holds {self.kind} of several runs, of {' and '.join(map(str, sorted(totals)))} shards; "
                "make them again in a new folder."
            )
        total = max((*totals, *(number + 1 for number in present)), default=0)
        missing = [self.path(number).name for number in range(total) if number not in present]
        if missing:
            raise ConfigError(
                f"{self.folder} holds {len(present)} of {total} shards of {self.kind}, {_some_of(missing)} missing; "
                f"finish making them with the command that began: python -m training {stage} with "
                f"run.out={self.folder}."
            )
        return list(present.values())

    def write(self, index: int, shard: Shard, *, total: int) -> None:
        """Write a shard, one of `total`, whole or not at all.

        Raises:
            NotNumbers: its tensors hold a NaN or an infinity.
        """
        for name, tensor in shard.tensors.items():
            require_numbers(f"{self.path(index).name} was not written: its {name}", tensor)
        with replacing(self.path(index)) as temporary:
            tensors = {name: tensor.contiguous() for name, tensor in shard.tensors.items()}
            header = {**shard.header, TOTAL: total, VERSION: FORMAT_VERSION}
            header[CHECKSUM] = checksum(header, tensors)
            save_file(tensors, str(temporary), metadata={name: json.dumps(value) for name, value in header.items()})

    def make(
        self,
        num_shards: int,
        make: Callable[[int], Shard],
        *,
        max_minutes: float | None,
        world: DistContext | None = None,
    ) -> bool:
        """Make the missing ones among shards 0..num_shards until all are there or the time is over; True when done.

        world: by default the processes that this one has joined. Each makes every so many-th shard and answers for no
            other; `make` must give the same for a shard whoever asks.
        """
        world = world or DistContext.current()
        own = range(world.rank, num_shards, world.size)
        missing = [index for index in own if not self.path(index).is_file()]
        started = time.monotonic()
        made = len(own) - len(missing)
        for index in tqdm(missing, total=len(own), initial=made, unit="shard", disable=not world.is_main):
            if max_minutes is not None and time.monotonic() - started > 60 * max_minutes:
                logger.info("%s paused before shard %d of %d; the same command goes on", self.kind, index, num_shards)
                return False
            self.write(index, make(index), total=num_shards)
        logger.info("%s: all %d shards of this process are in %s", self.kind, len(own), self.folder)
        return True


def read_header(path: Path) -> dict[str, Any]:
    """Return what a shard says of itself. Raises ConfigError if it is damaged."""
    with _opened(path) as file:
        return _header(file)


@contextmanager
def open_shard(path: Path) -> Iterator[Any]:
    """Open a shard's tensors, as safetensors does; the first time that a process does so its checksum is checked.

    Raises:
        ConfigError: the shard was changed or damaged after it was written.
    """
    with _opened(path) as file:
        if path not in _CHECKED:
            check_own_seal(_header(file), file.keys(), file.get_tensor)
            _CHECKED.add(path)
        yield file


_CHECKED: set[Path] = set()
"""Shards whose checksum fitted when this process first opened them."""


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, ValueError, KeyError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{path} cannot be used ({error}); remove it, and finish the folder with the command that made it."
        ) from error


def _header(file: Any) -> dict[str, Any]:
    return {name: json.loads(value) for name, value in (file.metadata() or {}).items()}


def _some_of(names: Sequence[str]) -> str:
    """The first of several names, with the verb."""
    more = len(names) - 1
    return f"{names[0]} and {more} more are" if more else f"{names[0]} is"
