"""The files that a run begins with, known again when it goes on.

A configuration names files by their paths, and other content may come to lie there: a teacher that was trained further,
prompts that were edited. What a run is held to, and what it is resumed with, would then change in its middle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

WHOLE_UP_TO = 64 * 2**20
"""Bytes of a file up to which every one of them counts: prompts, and the networks of the built-in family."""
STRIDE, SAMPLE = 2**20, 4096
"""Of a larger file, the first SAMPLE bytes of every STRIDE. No weight matrix in the blocks of the 1.3B model is smaller
than 4 MB, so that none changes unseen; a checkpoint of 5.7 GB takes 23 MB of reading, where all of it would take as
long as opening it does, in every process and at every start."""
PROSE = frozenset({"negative_prompt"})
"""Keys of texts for a network to read. Every other text in a configuration is a path, or a name without a slash."""


def named_files(config: Mapping[str, Any]) -> dict[str, Path]:
    """The files that a plain configuration names, by their dotted keys: whatever text but PROSE is the path of one.

    Folders are not among them. Those of data are runs of their own, which go on with the files that they began with.
    """
    return {key: Path(value) for key, value in _texts(config) if _is_file(value)}


def file_fingerprint(path: Path) -> str:
    """Hexadecimal fingerprint of a file's size and content; of a large one's, of samples."""
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as file:
        if size <= WHOLE_UP_TO:
            digest.update(file.read())
        else:
            for start in range(0, size, STRIDE):
                file.seek(start)
                digest.update(file.read(SAMPLE))
    return digest.hexdigest()


def _texts(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every text in nested dicts and lists but PROSE, with its dotted key."""
    if isinstance(value, str) and prefix.rpartition(".")[2] not in PROSE:
        yield prefix, value
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from _texts(entry, f"{prefix}.{key}" if prefix else str(key))


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        # A prompt, longer than a name can be, or with a character that no name has.
        return False
