"""Finished chunks on disk: what is found again, what is never believed, and what is thrown away when."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sfpp_core.chunk_store.eviction import clean
from sfpp_core.chunk_store.store import ChunkStore, ChunkStoreError, resume_rollout
from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.prompt_schedule import PromptSchedule, ScheduledPrompt
from sfpp_core.rollout.rollout import CallProgress, Rollout
from sfpp_core.rollout.state import RolloutState
from tests.helpers.models import random_text, random_transformer
from tests.sfpp_core.rollout.test_law import empty_state

CONFIG = RolloutConfig(chunk=3, window=9, steps=(1000.0, 500.0))
SEA, STORM = random_text(seed=1), random_text(seed=2)
PLAIN = PromptSchedule([ScheduledPrompt(text=SEA)])
HERE = {"device": "cpu", "compute": "torch.float32"}
DAY = 86400.0


class Takes:
    """A video made with a spool, and how many of its chunks were made rather than found."""

    def __init__(
        self,
        root: Path,
        state: RolloutState,
        direction: PromptSchedule = PLAIN,
        num_chunks: int = 6,
        *,
        keeps: bool = True,
        **circumstances: str,
    ) -> None:
        self.calls: list[CallProgress] = []
        rollout = Rollout(random_transformer(), state, SEA, on_call=self.calls.append)
        with torch.inference_mode(), ChunkStore(root).video(state, HERE | circumstances, keeps=keeps) as spool:
            self.reused = [stored.is_reused for stored in resume_rollout(rollout, direction, num_chunks, spool)]
            self.folder, self.num_kept = spool.folder, spool.num_kept()
        self.state = rollout.state
        self.latents = rollout.state.latents

    @property
    def made(self) -> int:
        return self.reused.count(False)


def test_what_is_there_is_not_made_again_and_is_the_same(tmp_path: Path) -> None:
    first = Takes(tmp_path, empty_state(CONFIG))
    again = Takes(tmp_path, empty_state(CONFIG))
    longer = Takes(tmp_path, empty_state(CONFIG), num_chunks=9)
    elsewhere = Takes(tmp_path / "other", empty_state(CONFIG), num_chunks=9)
    assert (first.made, again.made, longer.made, elsewhere.made) == (6, 0, 3, 9)
    assert again.calls == []
    assert torch.equal(again.latents, first.latents)
    assert torch.equal(longer.latents, elsewhere.latents)


def test_a_video_that_nothing_tells_from_another_is_neither_kept_nor_found(tmp_path: Path) -> None:
    kept = Takes(tmp_path, empty_state(CONFIG))
    passing = Takes(tmp_path, empty_state(CONFIG), keeps=False)
    assert (passing.made, passing.num_kept, kept.num_kept) == (6, 0, 6)
    assert torch.equal(passing.latents, kept.latents)
    elsewhere = Takes(tmp_path / "other", empty_state(CONFIG), keeps=False)
    assert list(elsewhere.folder.glob("*.safetensors")) == []


@pytest.mark.parametrize(("first_call", "overflow"), [(4, float("nan")), (5, float("inf"))])
def test_a_chunk_that_overflowed_ends_the_video_and_is_not_kept(
    tmp_path: Path, first_call: int, overflow: float
) -> None:
    """The second one, as a whole, or in a single value that nothing has spread yet."""

    class Overflowing:
        """A network with one overflow in each call from one of the second chunk's on."""

        def __init__(self) -> None:
            self._network, self._calls = random_transformer(), 0
            self.config, self.embed_text = self._network.config, self._network.embed_text

        def __call__(self, *inputs: object, **options: object) -> torch.Tensor:
            self._calls += 1
            flow = self._network(*inputs, **options)
            if self._calls >= first_call:
                flow[0, 0, 0, 0, 0] = overflow
            return flow

    rollout, made = Rollout(Overflowing(), empty_state(CONFIG), SEA), []
    with (
        pytest.raises(ValueError, match=r"chunk 2 holds non-finite values .* All 1 before it are safe"),
        torch.inference_mode(),
        ChunkStore(tmp_path).video(empty_state(CONFIG), HERE) as spool,
    ):
        made.extend(resume_rollout(rollout, PLAIN, 6, spool))
    assert len(list(tmp_path.glob("*/0*.safetensors"))) == 1
    assert Takes(tmp_path, empty_state(CONFIG)).made == 5


def test_an_extension_finds_what_the_longer_video_had(tmp_path: Path) -> None:
    whole = Takes(tmp_path, empty_state(CONFIG), num_chunks=8)
    half = Takes(tmp_path, empty_state(CONFIG), num_chunks=4)
    extended = Takes(tmp_path, half.state, num_chunks=4)
    assert (half.made, extended.made) == (0, 0)
    assert torch.equal(extended.latents, whole.latents)


def test_a_later_change_of_the_prompts_keeps_what_was_before_it(tmp_path: Path) -> None:
    def at(seconds: float, recache: bool = False) -> PromptSchedule:
        return PromptSchedule(
            [ScheduledPrompt(text=SEA), ScheduledPrompt(text=STORM, seconds=seconds, recache=recache)]
        )

    assert Takes(tmp_path, empty_state(CONFIG), at(2.9)).made == 6
    assert Takes(tmp_path, empty_state(CONFIG), at(2.1)).reused == [True, True, True, False, False, False]
    assert Takes(tmp_path, empty_state(CONFIG), at(2.1, recache=True)).reused == [True] * 3 + [False] * 3
    assert Takes(tmp_path, empty_state(CONFIG), at(2.9)).made == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 12},
        {"model_id": "others"},
        {"config": replace(CONFIG, window=12)},
        {"config": replace(CONFIG, shift=4.0)},
        {"config": replace(CONFIG, context_noise=10.0)},
        {"cache_form": "int8"},
    ],
    ids=str,
)
def test_what_decides_a_video_decides_what_is_found(tmp_path: Path, changes: dict) -> None:
    Takes(tmp_path, empty_state(CONFIG))
    assert Takes(tmp_path, replace(empty_state(CONFIG), **changes)).made == 6


def test_another_device_or_number_format_makes_its_own_video(tmp_path: Path) -> None:
    Takes(tmp_path, empty_state(CONFIG))
    assert Takes(tmp_path, empty_state(CONFIG), compute="torch.bfloat16").made == 6


def test_a_given_start_is_part_of_the_video(tmp_path: Path) -> None:
    def begun(value: float) -> RolloutState:
        state = empty_state(CONFIG)
        batch, channels, height, width = state.shape
        return state.with_given(torch.full((batch, channels, 1, height, width), value), SEA)

    assert Takes(tmp_path, begun(0.0)).made == 6
    assert Takes(tmp_path, begun(0.0)).made == 0
    assert Takes(tmp_path, begun(0.5)).made == 6


def damages() -> Iterator[tuple[str, object]]:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)

    yield "a flipped bit", flip
    yield "cut", lambda path: path.write_bytes(path.read_bytes()[:-40])
    yield "empty", lambda path: path.write_bytes(b"")
    yield "something else", lambda path: path.write_text("no chunk")
    yield "another chunk", lambda path: path.write_bytes(sorted(path.parent.glob("000003*"))[0].read_bytes())
    yield "gone", lambda path: path.unlink()
    yield "a folder", lambda path: (path.unlink(), path.mkdir())


@pytest.mark.parametrize(("name", "damage"), [pytest.param(*case, id=case[0]) for case in damages()])
def test_a_damaged_chunk_is_made_again_and_only_that_one(tmp_path: Path, name: str, damage: object) -> None:
    first = Takes(tmp_path, empty_state(CONFIG))
    (path,) = first.folder.glob("000002_*")
    damage(path)
    if name == "a folder":
        path.rmdir()
    again = Takes(tmp_path, empty_state(CONFIG))
    assert again.reused == [True, True, False, True, True, True]
    assert torch.equal(again.latents, first.latents)
    assert Takes(tmp_path, empty_state(CONFIG)).made == 0, "what was made again is whole"


@pytest.mark.endurance
def test_killed_processes_lose_at_most_the_chunk_at_work(tmp_path: Path) -> None:
    """A process that makes 40 chunks is killed again and again; the video is the one that nobody killed."""
    script = (
        "import sys; from pathlib import Path; from tests.sfpp_core.chunk_store.test_store import *; "
        "print(Takes(Path(sys.argv[1]), empty_state(CONFIG), num_chunks=40).made, flush=True)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "killed")]
    root = Path(__file__).parents[3]
    kept = 0
    for _ in range(3):
        process = subprocess.Popen(command, cwd=root)
        until = time.monotonic() + 120
        while len(list((tmp_path / "killed").glob("*/0*.safetensors"))) < kept + 4:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = len(list((tmp_path / "killed").glob("*/0*.safetensors")))
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True, timeout=120)
    assert int(done.stdout) == 40 - kept < 40
    whole = Takes(tmp_path / "whole", empty_state(CONFIG), num_chunks=40)
    assert torch.equal(Takes(tmp_path / "killed", empty_state(CONFIG), num_chunks=40).latents, whole.latents)
    assert [path.name for path in sorted(whole.folder.glob("0*"))] == [
        path.name for path in sorted((tmp_path / "killed").glob("*/0*"))
    ]


def _aged(folder: Path, seconds: float) -> Path:
    os.utime(folder, (time.time() - seconds,) * 2)
    return folder


def test_old_videos_go_first_and_only_as_far_as_needed(tmp_path: Path) -> None:
    folders = [Takes(tmp_path, empty_state(CONFIG, seed=seed), num_chunks=2).folder for seed in (1, 2, 3, 4)]
    for folder, days in zip(folders, (3, 9, 1, 2), strict=True):
        _aged(folder, days * DAY)
    size = sum(path.stat().st_size for path in folders[0].iterdir())
    kept = clean(tmp_path, most_bytes=100 * size, most_seconds=8 * DAY)
    assert (kept.folders, [folder.is_dir() for folder in folders]) == (1, [True, False, True, True])
    cleaned = clean(tmp_path, most_bytes=2 * size, most_seconds=8 * DAY)
    assert (cleaned.folders, cleaned.freed, cleaned.left) == (1, size, 2 * size)
    assert [folder.is_dir() for folder in folders] == [False, False, True, True]


def test_a_video_in_use_is_never_cleaned_and_a_dead_user_holds_nothing(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from tests.sfpp_core.chunk_store.test_store import *\n"
        "with ChunkStore(Path(sys.argv[1])).video(empty_state(CONFIG), HERE) as video: "
        "print(video.folder, flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, text=True
    )
    try:
        folder = _aged(Path(process.stdout.readline().strip()), 99 * DAY)
        assert clean(tmp_path, most_bytes=0, most_seconds=DAY).folders == 0
        assert folder.is_dir()
    finally:
        process.kill()
        process.wait()
    _aged(folder, 99 * DAY)
    assert clean(tmp_path, most_bytes=10**9, most_seconds=DAY).folders == 1
    assert not folder.exists()


def test_cleaning_no_spool_is_nothing(tmp_path: Path) -> None:
    assert clean(tmp_path / "none", most_bytes=0, most_seconds=0).folders == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not remove a folder in use")
def test_a_folder_that_is_removed_meanwhile_is_called_removed(tmp_path: Path) -> None:
    def remove(progress: CallProgress) -> None:
        if progress.chunk == 3:
            for folder in tmp_path.iterdir():
                shutil.rmtree(folder, ignore_errors=True)

    rollout = Rollout(random_transformer(), empty_state(CONFIG), SEA, on_call=remove)
    with torch.inference_mode(), ChunkStore(tmp_path).video(empty_state(CONFIG), HERE) as chunks:
        with pytest.raises(ChunkStoreError, match="the folder was removed while the video was made") as failed:
            list(resume_rollout(rollout, PLAIN, 6, chunks))
        assert "are safe" not in str(failed.value) and chunks.num_kept() == 0


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make space on that disk"),
        (errno.EDQUOT, "make space on that disk"),
        (errno.EROFS, "see to it that this program may write there"),
        (errno.EACCES, "see to it that this program may write there"),
        (errno.EIO, "see to that disk"),
    ],
)
def test_what_to_do_about_a_disk_depends_on_its_error(
    number: int, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the driver's answer in place of the driver: the system's call that every file takes its place by."""
    replace_file = os.replace

    def fails(source: Path, target: Path) -> None:
        if str(target).endswith(".safetensors"):
            raise OSError(number, os.strerror(number))
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(ChunkStoreError, match=f"All 0 before it are safe: {remedy} and queue the same workflow again"):
        Takes(tmp_path, empty_state(CONFIG))
