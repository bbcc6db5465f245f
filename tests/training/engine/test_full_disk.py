"""Whatever is being written when a disk is full, a stage ends with a sentence, and the same command goes on."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.small_disk import small_disk
from tests.helpers.stage_cases import CASES, CONFIGS, write_files
from training.__main__ import main
from training.engine.checks import means_full_disk

KIB = 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with small_disk(folder, megabytes=1):
        yield folder


def fill(disk: Path, *, left: int) -> Path:
    """Leave so many bytes; the file that takes the others."""
    filler = disk / "filler"
    filler.write_bytes(bytes(1024 * KIB - left))
    return filler


def told(out: Path) -> str:
    """The end of the sentence."""
    return f"What is whole in {out} stays; make room there, or where another path is named, then give the same command "


def test_trajectories_that_are_whole_stay_and_the_others_follow(
    disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_files(tmp_path)
    out = disk / "ode_pairs"
    (tmp_path / "one").mkdir()
    words = CASES["ode_pairs"].command(tmp_path / "one" / "ode_pairs", f"run.out={out}", "width=64", "height=64")
    # A shard takes 75.
    filler = fill(disk, left=100 * KIB)
    assert main(words) == 1
    assert "the disk is full: " in caplog.text and told(out) in caplog.text
    (first,) = out.glob("*.safetensors")
    made = first.stat().st_mtime_ns
    filler.unlink()
    assert main(words) == 0
    assert first.stat().st_mtime_ns == made and len(list(out.glob("*.safetensors"))) == 2
    assert not list(out.glob("*sfpp-*")), "nothing unfinished is left"


# TensorBoard's own thread, which writes, ends with the error too.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_board_that_cannot_be_written_ends_in_a_sentence(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Before the first checkpoint: its configuration and the list of its files take a page each."""
    out = disk / "reader"
    words = ["steps=200", "optimizer.warmup=1", "optimizer.decay=0", "batch=1", "size=32", f"run.out={out}"]
    words += ["run.workers=0", "run.log_every=1", "run.device=cpu"]
    fill(disk, left=12 * KIB)
    assert main(["reader", "--config", str(CONFIGS / "reader.yaml"), *words]) == 1
    assert "the disk is full: " in caplog.text and told(out) in caplog.text
    assert not list(out.glob("checkpoint-*")) and not list(out.glob(".checkpoint*"))


def test_errors_of_other_kinds_are_not_taken_for_it(tmp_path: Path) -> None:
    assert means_full_disk(OSError(errno.ENOSPC, "No space left on device"))
    assert means_full_disk(OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert not means_full_disk(PermissionError(errno.EACCES, "Permission denied"))
    (tmp_path / "file").touch()
    words = [f"run.out={tmp_path / 'file' / 'reader'}", "run.device=cpu"]
    with pytest.raises(NotADirectoryError):
        main(["reader", "--config", str(CONFIGS / "reader.yaml"), *words])
