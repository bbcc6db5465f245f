"""A run's state on disk: written by all of its processes together, read back by any number of them.

torch.distributed.checkpoint stores the tensors, each process its parts. Everything else goes with them as JSON, and
the index that torch pickles is read by an unpickler that knows nothing but what belongs there: opening a checkpoint
runs no code from it. A tensor of a task's own state has a process's samples on its first axis, so that a run saved by
some number of processes goes on in any other that shares the batch out. Plain values are the same in every process.
"""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.tensor import DTensor, Shard

from ..config import require
from .distributed import DistContext

Like = Callable[[tuple[str, ...], torch.Size, torch.dtype], Tensor]
"""Gives an empty tensor for the entry at a path in the state, of its whole shape, where and as sharded as wanted."""
VALUES = "values"
"""Name under which the JSON is stored, as bytes; other names are paths with slashes."""
TENSOR = "__tensor__"
"""Key of what stands for a tensor in the JSON."""
_METADATA = "torch.distributed.checkpoint.metadata"
INDEX_NAMES = {
    (_METADATA, "Metadata"),
    (_METADATA, "MetadataIndex"),
    (_METADATA, "StorageMeta"),
    (_METADATA, "TensorStorageMetadata"),
    (_METADATA, "ChunkStorageMetadata"),
    (_METADATA, "TensorProperties"),
    (_METADATA, "_MEM_FORMAT_ENCODING"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    *((module, name) for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath")),
}
"""What torch's index of tensors is made of, besides dtypes."""


class RunCheckpointError(RuntimeError):
    """A checkpoint that could not be written or read; the message says which and why."""


def write_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write a state into a new folder and flush it to disk; all processes of the run call this.

    state: nested dicts and lists of tensors, plain or sharded, and of JSON values. A plain tensor or value must be
        the same in every process.

    Raises:
        CheckpointError: in every process, if one of them could not write its part.
    """
    tensors: dict[str, Tensor] = {}
    values = json.dumps(_without_tensors(state, (), tensors)).encode()
    tensors[VALUES] = torch.frombuffer(bytearray(values), dtype=torch.uint8)
    writer = dcp.FileSystemWriter(folder, sync_files=True)
    try:
        with _single_process_is_meant():
            dcp.save(tensors, storage_writer=writer, no_dist=DistContext.current().size == 1)
    except CheckpointException as problem:
        raise RunCheckpointError(_reason(problem)) from problem


def read_checkpoint(folder: Path, like: Like) -> dict[str, Any]:
    """The state that `write_checkpoint` put there, its tensors as `like` wants them; all processes call this.

    Raises:
        CheckpointError: it cannot be read.
    """
    reader = _Reader(folder)
    try:
        entries = reader.read_metadata().state_dict_metadata
        tensors = {name: _empty(name, entry, like) for name, entry in entries.items()}
        with _single_process_is_meant():
            dcp.load(tensors, storage_reader=reader, no_dist=DistContext.current().size == 1)
    except CheckpointException as problem:
        raise RunCheckpointError(f"{folder} cannot be read: {_reason(problem)}") from problem
    except (OSError, pickle.UnpicklingError) as problem:
        raise RunCheckpointError(f"{folder} cannot be read: {problem}") from problem
    values = json.loads(tensors.pop(VALUES).numpy().tobytes())
    return _with_tensors(values, tensors)


class _Reader(dcp.FileSystemReader):
    """Torch's reader, but for how it reads the index."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as file:
            return _IndexUnpickler(file).load()


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or (module, name) in INDEX_NAMES:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"its index names {module}.{name}, which is no part of a checkpoint's index")


def _empty(name: str, entry: Any, like: Like) -> Tensor:
    shape, dtype = entry.size, entry.properties.dtype
    return torch.empty(shape, dtype=dtype) if name == VALUES else like(tuple(name.split("/")), shape, dtype)


def _without_tensors(value: Any, path: tuple[str, ...], tensors: dict[str, Tensor]) -> Any:
    """A state in JSON values; its tensors are put into `tensors` and their names in their places."""
    if isinstance(value, Tensor):
        name = "/".join(path)
        tensors[name] = value.detach()
        return {TENSOR: name}
    if isinstance(value, dict):
        return {str(key): _without_tensors(entry, (*path, str(key)), tensors) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_tensors(entry, (*path, str(index)), tensors) for index, entry in enumerate(value)]
    return value


def _with_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if TENSOR in value:
            return tensors[value[TENSOR]]
        return {key: _with_tensors(entry, tensors) for key, entry in value.items()}
    return [_with_tensors(entry, tensors) for entry in value] if isinstance(value, list) else value


def _reason(problem: CheckpointException) -> str:
    """Return what went wrong first, without the traces of every process."""
    rank, (error, _) = min(problem.failures.items())
    return f"process {rank}: {error}" if DistContext.current().size > 1 else str(error)


@contextmanager
def _single_process_is_meant() -> Iterator[None]:
    """Silences torch's remark that there is no process group."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*assuming the intent is to .* in a single process")
        yield


CPU = "cpu"
"""Videos wait there between steps, and checkpoints are written from there."""


def of_all(state: Any) -> Any:
    """A task's state with each tensor as the part that it is of all processes' samples."""
    world = DistContext.current()
    if isinstance(state, Tensor):
        tensor = state.detach().to(CPU)
        return tensor if world.size == 1 else DTensor.from_local(tensor, world.mesh(CPU), [Shard(0)])
    if isinstance(state, dict):
        return {key: of_all(value) for key, value in state.items()}
    return [of_all(value) for value in state] if isinstance(state, list | tuple) else state


def like_mine(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """An empty tensor for this process's samples of a tensor that has `shape` over all processes.

    Raises:
        ConfigError: the number of samples is not divisible by the number of processes.
    """
    world = DistContext.current()
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
