"""From what the user points at to the files that together hold the weights, and what kind of file each is."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import NoReturn

from ..json_text import parse_json
from .errors import CheckpointError, first_few

INDEX_SUFFIX = ".safetensors.index.json"
SHARD_NAME = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")
DOWNLOAD_AGAIN = "Download it again and compare its size with the publisher's page."
MAX_HEADER_BYTES = 100_000_000
"""The safetensors format's own limit on its header."""


class FileKind(Enum):
    """The two containers that weights are read from."""

    SAFETENSORS = "safetensors"
    TORCH = "torch"


def resolve_sources(path: Path) -> list[Path]:
    """Files that hold the weights `path` stands for: itself, or all shards if it is a shard, an index or a folder."""
    if not path.exists():
        raise CheckpointError(path, found="no such file", remedy="Check the name and the folder.")
    if path.is_dir():
        return _resolve_folder(path)
    if path.name.endswith(INDEX_SUFFIX):
        return _shards(path)
    if SHARD_NAME.search(path.name):
        return _shards(_index_beside(path))
    return [path]


def _resolve_folder(folder: Path) -> list[Path]:
    if (folder / ".metadata").exists():
        raise CheckpointError(
            folder,
            found="a sharded training checkpoint of torch.distributed",
            remedy=f"Gather it into one file: python -m torch.distributed.checkpoint.format_utils dcp_to_torch "
            f"{folder} FILE.pt, and open that.",
        )
    choices = sorted(folder.glob("*" + INDEX_SUFFIX)) or sorted(folder.glob("*.safetensors"))
    if len(choices) == 1:
        return resolve_sources(choices[0])
    if choices:
        raise CheckpointError(
            folder,
            found=f"a folder with {len(choices)} sets of weights",
            expected="a folder with one",
            remedy=f"Open one of them instead: {first_few([file.name for file in choices])}.",
        )
    if (folder / "transformer").is_dir():
        return _resolve_folder(folder / "transformer")
    raise CheckpointError(
        folder,
        found="a folder without .safetensors files",
        expected="a file, or a folder with diffusers' transformer in it",
        remedy="Choose the checkpoint file itself.",
    )


def _index_beside(shard: Path) -> Path:
    for index in sorted(shard.parent.glob("*" + INDEX_SUFFIX)):
        if shard.name in _weight_map(index).values():
            return index
    raise CheckpointError(
        shard,
        found="one part of a checkpoint that is split over several files, without its index",
        remedy=f"Download the remaining parts and the {INDEX_SUFFIX} file into the same folder.",
    )


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = parse_json(index.read_text(encoding="utf-8"))["weight_map"]
        if not all(isinstance(name, str) and Path(name).name == name for name in weight_map.values()):
            raise ValueError("weight_map must name files of the same folder")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            index, found=f"an index that cannot be read ({error})", expected="an index of shards", remedy=DOWNLOAD_AGAIN
        ) from error
    return weight_map


def _shards(index: Path) -> list[Path]:
    names = sorted(set(_weight_map(index).values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing or not names:
        raise CheckpointError(
            index,
            found=f"an index of {len(names)} files of which {len(missing)} are missing ({first_few(missing)})",
            expected="all of them in the same folder",
            remedy="Download the missing files.",
        )
    return [index.parent / name for name in names]


def sniff(path: Path) -> FileKind:
    """Tell the container from the first bytes; the file's extension is not trusted."""
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"PK\x03\x04"):
        return FileKind.TORCH
    header_bytes = int.from_bytes(head[:8], "little")
    if len(head) > 8 and head[8:9] == b"{" and header_bytes <= MAX_HEADER_BYTES:
        return FileKind.SAFETENSORS
    _refuse_container(path, head)


def _refuse_container(path: Path, head: bytes) -> NoReturn:
    if not head:
        found, remedy = "an empty file", DOWNLOAD_AGAIN
    elif head.startswith(b"version https://git-lfs"):
        found, remedy = "a Git LFS pointer, not the file it points to", "Fetch the file itself: git lfs pull."
    elif head.lstrip()[:1] == b"<":
        found = "a web page"
        remedy = "The download saved the page instead of the file; use the page's download link."
    elif head.startswith(b"GGUF"):
        found = "a GGUF file"
        remedy = "Load it with a GGUF loader node; the sampler takes the MODEL of any loader."
    elif head.startswith(b"\x80") or head[:1] == b"(":
        found = "a pickle outside of a zip container, as torch wrote before version 1.6"
        remedy = "It is not opened, because such files can run code. Use a safetensors version of the weights."
    else:
        found, remedy = "a file that is no checkpoint at all", "Choose a .safetensors, .pt or .pth file of weights."
    raise CheckpointError(path, found=found, remedy=remedy)
