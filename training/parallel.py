"""The processes of a run and what each of them does: which samples of a global batch are whose."""

from __future__ import annotations

from dataclasses import dataclass

from .config import require


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """One process's place among all of a run."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and logs."""
        return self.rank == 0

    def samples(self, batch: int) -> range:
        """The samples of a global batch that this process handles, equally many in every process.

        Raises:
            ConfigError: the batch cannot be shared out equally.
        """
        require(
            batch % self.size == 0,
            f"batch is {batch} for {self.size} processes; it must be a multiple of their number.",
        )
        share = batch // self.size
        return range(self.rank * share, (self.rank + 1) * share)
