"""A rating that was paid for is there again: for any process, after any death; and no other file is harmed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch

from sfpp_core.stability.ledger import LedgerError, RatingLedger
from sfpp_core.stability.score import Rating
from sfpp_core.video.span import VideoSpan

GREY = VideoSpan.from_images(torch.full((32, 8, 8, 3), 0.5))
WHITE = VideoSpan.from_images(torch.ones(32, 8, 8, 3))

# Computed here, once: torch had better not compute in a forked process.
for footage in (GREY, WHITE):
    footage.fingerprint()
FORK = multiprocessing.get_context("fork")


def rating(number: float, explanation: str = "Seen.") -> Rating:
    return Rating(explanation=explanation, rating=number)


def test_a_rating_is_found_again_by_judge_footage_and_prompt_only(tmp_path: Path) -> None:
    ledger = RatingLedger(tmp_path / "ratings.sqlite3")
    ledger.put("a", GREY, "fog", rating(3.7, "Grey \u2013 'all' of it."))
    again = RatingLedger(tmp_path / "ratings.sqlite3")
    assert again.get("a", GREY, "fog") == rating(3.7, "Grey \u2013 'all' of it.")
    assert again.get("b", GREY, "fog") is None
    assert again.get("a", GREY, "") is None
    assert again.get("a", WHITE, "fog") is None
    assert again.get("a", GREY.segment(0.0, 1.0), "fog") is None
    again.put("a", GREY, "fog", rating(1))
    assert ledger.get("a", GREY, "fog") == rating(1)


def _put_many(path: Path, writer: int) -> None:
    for index in range(20):
        RatingLedger(path).put(f"writer {writer}", GREY, str(index), rating(writer))


def test_many_processes_write_one_file_that_none_of_them_has_made(tmp_path: Path) -> None:
    path = tmp_path / "ratings.sqlite3"
    with ProcessPoolExecutor(4, mp_context=FORK) as pool:
        for done in [pool.submit(_put_many, path, writer) for writer in range(4)]:
            done.result()
    ledger = RatingLedger(path)
    assert all(ledger.get(f"writer {w}", GREY, str(i)) == rating(w) for w in range(4) for i in range(20))


def _put_until_killed(path: Path, count: int, started: Event) -> None:
    ledger = RatingLedger(path)
    for index in range(10**6):
        ledger.put("a", GREY, str(index), rating(index % 6))
        # The proof that `put` has returned, in a file that a kill cannot take back either.
        with (path.parent / "returned").open("a") as file:
            file.write(f"{index}\n")
        if index == count:
            started.set()


@pytest.mark.parametrize("count", [3, 17])
def test_what_put_has_returned_from_survives_a_kill(tmp_path: Path, count: int) -> None:
    path, started = tmp_path / "ratings.sqlite3", FORK.Event()
    process = FORK.Process(target=_put_until_killed, args=(path, count, started))
    process.start()
    assert started.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    returned = [int(line) for line in (tmp_path / "returned").read_text().split("\n")[:-1]]
    assert len(returned) > count
    ledger = RatingLedger(path)
    assert all(ledger.get("a", GREY, str(index)) == rating(index % 6) for index in returned)
    ledger.put("a", GREY, "after", rating(5))


def _hold(path: Path, held: Event) -> None:
    with RatingLedger(path).claim("a", GREY, ""):
        held.set()
        time.sleep(600)


def test_a_claim_keeps_others_out_until_its_process_ends_even_by_a_kill(tmp_path: Path) -> None:
    path, held = tmp_path / "ratings.sqlite3", FORK.Event()
    ledger = RatingLedger(path)
    process = FORK.Process(target=_hold, args=(path, held))
    process.start()
    assert held.wait(60)
    with ledger.claim("a", WHITE, ""), ledger.claim("b", GREY, ""):
        pass  # Other work is free.

    waiting, entered = FORK.Event(), FORK.Event()

    def enter() -> None:
        waiting.set()
        with ledger.claim("a", GREY, ""):
            entered.set()

    second = FORK.Process(target=enter)
    second.start()
    assert waiting.wait(60)
    assert not entered.wait(0.5)
    process.kill()
    assert entered.wait(60)
    second.join()
    process.join()


def test_other_files_are_refused_and_left_as_they_are(tmp_path: Path) -> None:
    text, other, newer = tmp_path / "notes.txt", tmp_path / "other.db", tmp_path / "newer.sqlite3"
    text.write_text("not a database " * 100)
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE users (name TEXT)")
    RatingLedger(newer)
    with sqlite3.connect(newer) as database:
        database.execute("PRAGMA user_version = 99")
    for path, words in (
        (text, "notes.txt cannot be used as a ledger"),
        (other, "other.db is a database of something else"),
        (newer, "newer.sqlite3 is a ledger of version 99"),
        (tmp_path / "no" / "folder.sqlite3", "folder.sqlite3 cannot be used as a ledger .* folder exists"),
    ):
        before = path.read_bytes() if path.exists() else None
        with pytest.raises(LedgerError, match=words):
            RatingLedger(path)
        assert (path.read_bytes() if path.exists() else None) == before
