"""From what the user points at to the files that together hold the weights, and what kind of file each is."""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NoReturn

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..files import parse_json
from .errors import CheckpointError, first_few

INDEX_SUFFIX = ".safetensors.index.json"
SHARD_NAME = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")
DOWNLOAD_AGAIN = "Download it again and compare its size with the publisher's page."
MAX_HEADER_BYTES = 25_000_000
"""Of a safetensors file. The 14B model's has 0.2 MB; the format's own limit, 100 MB, takes gigabytes to be read."""
MAX_PICKLE_BYTES = 100_000_000
"""Of the description in a torch file, which is read as a whole."""
MAX_NAMES = 50_000
"""Entries of a file. The 14B model has 1,095 weights, a training file with its optimiser a few times as many."""


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
    if not path.is_file():
        raise CheckpointError(path, found="no regular file", remedy="Choose a file of weights.")
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
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except PermissionError as error:
        raise CheckpointError(
            path, found="a file that this program may not read", remedy="Change its permissions (chmod u+r)."
        ) from error
    if head.startswith(b"PK\x03\x04"):
        return FileKind.TORCH
    header_bytes = int.from_bytes(head[:8], "little")
    if len(head) > 8 and head[8:9] == b"{":
        if header_bytes <= MAX_HEADER_BYTES:
            return FileKind.SAFETENSORS
        raise CheckpointError(
            path,
            found=f"a safetensors file whose header claims {header_bytes / 1e6:,.0f} MB",
            remedy=f"A header of weights has {MAX_HEADER_BYTES / 1e6:.0f} MB at most. {DOWNLOAD_AGAIN}",
        )
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
        remedy = "Open it with a loader for GGUF files, or use a safetensors version of the weights."
    elif head.startswith(b"\x80") or head[:1] == b"(":
        found = "a pickle outside of a zip container, as torch wrote before version 1.6"
        remedy = "It is not opened, because such files can run code. Use a safetensors version of the weights."
    else:
        found, remedy = "a file that is no checkpoint at all", "Choose a .safetensors, .pt or .pth file of weights."
    raise CheckpointError(path, found=found, remedy=remedy, other_loader=head.startswith(b"GGUF"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """A checkpoint before it is understood. Tensors are views of the mapped file: nothing is read yet."""

    path: Path
    """What the user asked for; named in every error."""
    content: Mapping[str, object]
    """Weights by name, or, in training files, nested dictionaries of them beside counters and optimiser states."""
    metadata: Mapping[str, str]
    """The safetensors header's strings; empty for torch files."""
    num_heads: int | None
    """From diffusers' config.json if there is one; the weights do not tell."""


def read_archive(path: Path) -> Archive:
    """Open a file, an index or a folder of shards. Raises CheckpointError."""
    sources = resolve_sources(path)
    content: dict[str, object] = {}
    metadata: dict[str, str] = {}
    for source in sources:
        part, header = _READERS[sniff(source)](source)
        if repeated := content.keys() & part.keys():
            raise CheckpointError(
                path, found=f"names that occur in two shards ({first_few(sorted(repeated))})", remedy=DOWNLOAD_AGAIN
            )
        content.update(part)
        metadata.update(header)
    return Archive(path=path, content=content, metadata=metadata, num_heads=_configured_heads(sources[0], path))


def _read_safetensors(path: Path) -> tuple[dict[str, object], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            _require_few(path, len(file.keys()))
            # The tensors outlive the handle: each is a view of the mapping, which they keep alive.
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except SafetensorError as error:
        raise CheckpointError(path, found=_damage(path, error), remedy=DOWNLOAD_AGAIN) from error


def _damage(path: Path, error: SafetensorError) -> str:
    promised = _promised_bytes(path)
    size = path.stat().st_size
    if promised is not None and size < promised:
        return f"a truncated safetensors file ({size:,} of {promised:,} bytes)"
    return f"a damaged safetensors file ({error})"


def _promised_bytes(path: Path) -> int | None:
    """Least length of the file according to its header, None if the header makes no sense."""
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        header = file.read(header_bytes)
    if len(header) < header_bytes:
        return 8 + header_bytes
    try:
        entries = parse_json(header)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
        return 8 + header_bytes + max(ends, default=0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None


def _read_torch(path: Path) -> tuple[dict[str, object], dict[str, str]]:
    _require_plain_zip(path)
    try:
        # mmap also insists on the zip container, so that torch's older, less guarded readers are never reached.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            path,
            found=f"a pickle with more than weights in it ({_refused_global(error)})",
            remedy="Opening it could run code, so it was refused and nothing in it ran. "
            "Use a safetensors version of the weights.",
        ) from error
    except Exception as error:  # a damaged or hostile pickle can fail in any way; every way means the same to the user
        raise CheckpointError(
            path, found="a damaged or truncated torch file, or a zip file of another kind", remedy=DOWNLOAD_AGAIN
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(
            path,
            found=f"a torch file that holds a {type(content).__name__}",
            expected="a dictionary of weights",
            remedy="Choose the file with the transformer's weights.",
        )
    return {str(name): value for name, value in content.items()}, {}


def _require_few(path: Path, number: int) -> None:
    if number > MAX_NAMES:
        raise CheckpointError(
            path, found=f"a file of {number:,} entries", remedy=f"Weights have {MAX_NAMES:,} at most: use the original."
        )


def _require_plain_zip(path: Path) -> None:
    """Refuse, before anything of it is read, a torch file that is packed, or that would fill the memory when read."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error):
        return  # torch says what is wrong with it
    _require_few(path, len(entries))
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(
            path, found="a packed zip file", remedy="torch does not pack its files: unpack it, or use the original."
        )
    largest = max((entry.file_size for entry in entries if entry.filename.endswith("data.pkl")), default=0)
    if largest > MAX_PICKLE_BYTES:
        raise CheckpointError(
            path,
            found=f"a torch file whose description takes {largest / 1e6:,.0f} MB",
            remedy="Use a safetensors version of the weights.",
        )


def refuse_hollow(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse sparse and nested tensors, and shapes that a torch file's pickle claims without the numbers for them."""
    _refuse(path, [name for name, tensor in tensors.items() if not _is_dense(tensor)])


def refuse_weightless(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors of the meta device, which a torch file can hold: nothing but names and shapes."""
    _refuse(path, [name for name, tensor in tensors.items() if tensor.is_meta])


def _refuse(path: Path, names: list[str]) -> None:
    if names:
        raise CheckpointError(
            path,
            found=f"weights whose numbers are not in the file, or not one by one ({first_few(names)})",
            remedy="Use a safetensors version of the weights.",
        )


def _is_dense(tensor: Tensor) -> bool:
    if tensor.is_nested or tensor.layout is not torch.strided:
        return False
    return tensor.untyped_storage().nbytes() >= tensor.nbytes


def _refused_global(error: pickle.UnpicklingError) -> str:
    """The callable that torch refused. The rest of its message advises to switch the protection off."""
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    return named.group(1) if named else "objects that are neither tensors, numbers, strings nor dictionaries"


_READERS = {FileKind.SAFETENSORS: _read_safetensors, FileKind.TORCH: _read_torch}


def _configured_heads(source: Path, path: Path) -> int | None:
    """Attention heads from the config.json beside weights of the one name that ties the two files together."""
    config_file = source.with_name("config.json")
    if not source.name.startswith("diffusion_pytorch_model") or not config_file.is_file():
        return None
    try:
        config = parse_json(config_file.read_text(encoding="utf-8"))
        # diffusers writes the first name, Wan's own repository the second.
        heads = config.get("num_attention_heads", config.get("num_heads"))
    except (ValueError, AttributeError) as error:
        raise CheckpointError(
            path, found=f"an unreadable config.json beside the weights ({error})", remedy=DOWNLOAD_AGAIN
        ) from error
    return heads if isinstance(heads, int) else None
