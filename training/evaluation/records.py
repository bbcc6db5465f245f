"""What was found of each film, one JSON object a line, in files that a killed run goes on with.

Every process appends to a file of its own, so no two ever write to one; all are read. A line carries the identity of
all that decided it, so that a film is judged again when its student was trained on, and not otherwise.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import ConfigError

FILES = "films-*.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmKey:
    """Which film."""

    arm: str
    prompt: int
    """Number of the prompt."""
    take: int
    """Number of the film among those of a prompt; takes of the same number have the same seed in every arm."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmRecord:
    """A film that was judged."""

    key: FilmKey
    identity: str
    """Hash of all that decided the film and its figures."""
    text: str
    """The prompt."""
    seed: int
    """Of the noise; for the truth, of what the prompt leaves open."""
    figures: dict[str, dict[str, float | None]]
    """By length in seconds, `length_name`: the fields of FilmFigures and ContentFigures."""
    features: dict[str, list[float]]
    """By length: what the reader says of the last 5 s; empty without a reader."""
    curves: dict[str, list[float]]
    """Drift by quantity, one value between neighbouring `curve_edges`."""
    seconds: float
    """Of wall time that the film took, its share of those made with it."""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> FilmRecord:
        """The record that `to_json` wrote. Raises ValueError, KeyError or TypeError for anything else."""
        entries = json.loads(line)
        return cls(**entries | {"key": FilmKey(**entries["key"])})


def length_name(seconds: float) -> str:
    """How a length is called in records: 5, 50, 0.5."""
    return f"{seconds:g}"


def identity_of(decisive: dict[str, Any]) -> str:
    """Hash of what JSON can hold."""
    return hashlib.blake2b(json.dumps(decisive, sort_keys=True).encode(), digest_size=12).hexdigest()


def hash_of_text(embeddings: Tensor) -> str:
    """Hash of what networks are told of a prompt; embeddings on the CPU."""
    return hashlib.sha256(embeddings.numpy().tobytes()).hexdigest()


def read_records(folder: Path) -> dict[tuple[FilmKey, str], FilmRecord]:
    """All films of a folder by key and identity.

    Raises:
        ConfigError: a line that is no record, except a last one that a dying process has not written to its end.
    """
    found = {}
    for path in sorted(folder.glob(FILES)):
        for number, line in _whole_lines(path):
            try:
                record = FilmRecord.from_json(line)
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"{path} line {number} is no film of the evaluate stage; move the file away, or choose another "
                    "run.out."
                ) from error
            found[record.key, record.identity] = record
    return found


def append_record(folder: Path, rank: int, record: FilmRecord) -> None:
    """Write a record to the file of a process; it is on the disk when this returns."""
    with (folder / FILES.replace("*", f"{rank:03d}")).open("ab+") as file:
        _drop_broken_end(file)
        file.write(record.to_json().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _whole_lines(path: Path) -> Iterator[tuple[int, str]]:
    content = path.read_bytes()
    lines = content[: content.rfind(b"\n") + 1].decode().splitlines()
    return iter(enumerate(lines, start=1))


def _drop_broken_end(file: Any) -> None:
    """Cut off a last line without an end, which an earlier process left when it died."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
    file.seek(0, os.SEEK_END)
