"""Own files of weights and data: one changed bit is noticed, and whoever may read a folder may read them."""

from __future__ import annotations

import json
import os
import random
import stat
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sfpp_core.checkpoint.checkpoint import HEADER_KEY, open_checkpoint
from sfpp_core.checkpoint.errors import CheckpointError
from sfpp_core.sealed_file import CHECKSUM
from sfpp_core.tiny.family import load_teacher
from tests.helpers.models import TINY, random_transformer
from training.config import ConfigError
from training.data.clips import ClipSource, LatentClips, clip_shard, clip_shards
from training.models.export import StudentConfig, write_student, write_weights


def write_a_student(path: Path) -> None:
    student = StudentConfig(window=6, steps=[1000.0, 500.0])
    write_student(path, random_transformer(), student, {"seed": 3}, dtype=torch.float16)


def write_a_teacher(path: Path) -> None:
    write_weights(path, random_transformer().state_dict(), {"kind": "teacher", "model": asdict(TINY)})


def write_clips(path: Path) -> None:
    latents = torch.randn(2, 16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    clip_shards(path.parent).write(0, clip_shard(latents, [["a"], ["b"]]), total=1)


def read_clips(path: Path) -> None:
    LatentClips.read([ClipSource(folder=str(path.parent), clips=2)], 3)


FILES: dict[str, tuple[Callable[[Path], None], Callable[[Path], object]]] = {
    "student.safetensors": (write_a_student, open_checkpoint),
    "teacher.safetensors": (write_a_teacher, load_teacher),
    "clips-00000.safetensors": (write_clips, read_clips),
}


@pytest.fixture(params=FILES)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Callable[[Path], object]]:
    """A file, and what opens it."""
    write, read = FILES[request.param]
    write(tmp_path / request.param)
    read(tmp_path / request.param)
    return tmp_path / request.param, read


def copy_with(path: Path, content: bytes, number: int) -> Path:
    """The content under the same name in a folder of its own: a shard is checked once."""
    copy = path.parent / f"copy{number}" / path.name
    copy.parent.mkdir()
    copy.write_bytes(content)
    return copy


def test_a_flipped_bit_is_noticed_wherever_it_is(file: tuple[Path, Callable[[Path], object]]) -> None:
    path, read = file
    whole, draw = path.read_bytes(), random.Random(5)
    header = 8 + int.from_bytes(whole[:8], "little")
    end_of_header = len(whole[:header].rstrip(b" "))
    places = [draw.randrange(8, end_of_header) for _ in range(30)]
    places += [draw.randrange(header, len(whole)) for _ in range(30)]
    for number, place in enumerate(places):
        changed = whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :]
        with pytest.raises((ValueError, ConfigError), match=path.name):
            read(copy_with(path, changed, number))


def test_the_checksum_may_not_be_left_out(file: tuple[Path, Callable[[Path], object]]) -> None:
    path, read = file
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    if HEADER_KEY in metadata:
        entries = json.loads(metadata[HEADER_KEY])
        del entries[CHECKSUM]
        metadata[HEADER_KEY] = json.dumps(entries)
    else:
        del metadata[CHECKSUM]
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    other = copy_with(path, b"", 0)
    save_file(tensors, other, metadata)
    with pytest.raises((ValueError, ConfigError), match="its checksum is missing"):
        read(other)


def test_a_file_of_a_newer_version_says_so(tmp_path: Path) -> None:
    write_weights(tmp_path / "new.safetensors", random_transformer().state_dict(), {"kind": "teacher"})
    with safe_open(tmp_path / "new.safetensors", "pt") as opened:
        entries = json.loads(opened.metadata()[HEADER_KEY])
    entries |= {"version": 9, "model": asdict(TINY)}
    tensors = {name: tensor.clone() for name, tensor in load_file(tmp_path / "new.safetensors").items()}
    save_file(tensors, tmp_path / "new.safetensors", {HEADER_KEY: json.dumps(entries)})
    with pytest.raises(CheckpointError, match="its format is version 9; this program reads up to 2: update it"):
        open_checkpoint(tmp_path / "new.safetensors")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask")
@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_who_may_read_a_file_is_what_the_umask_says(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_a_student(tmp_path / "student.safetensors")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "student.safetensors").stat().st_mode) == 0o666 & ~mask
