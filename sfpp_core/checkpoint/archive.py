"""Reading containers of weights: memory-mapped, and without ever running code from them."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..json_text import parse_json
from .errors import CheckpointError, first_few
from .sources import DOWNLOAD_AGAIN, FileKind, resolve_sources, sniff


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """What a checkpoint holds before it is understood. Tensors are views of the mapped file: nothing is read yet."""

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
