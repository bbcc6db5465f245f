"""A file of results goes on after any death of its writer, holds one line a question, and is never somebody else's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sfpp_core.stability.batch.cli import result_table
from sfpp_core.stability.batch.results import Question, ResultFile, ResultFileError, VideoResult
from sfpp_core.stability.score import SegmentRating, VisualStability


def question(path: str, prompt: str = "") -> Question:
    return Question(path=path, prompt=prompt, judge="brightness", segment_seconds=10.0)


def rated(path: str, *ratings: float, fingerprint: str = "f") -> VideoResult:
    segments = tuple(
        SegmentRating(start=10.0 * index, end=10.0 * index + 10, rating=rating, explanation=f"Seen \u2013 {rating}.")
        for index, rating in enumerate(ratings)
    )
    stability = VisualStability(judge="brightness", prompt="", segments=segments)
    return VideoResult(question=question(path), fingerprint=fingerprint, stability=stability)


def failed(path: str) -> VideoResult:
    return VideoResult(question=question(path), error="It is cut short.")


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_holds_score_segments_and_words_and_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    with ResultFile(path) as file:
        file.append(rated("a.mp4", 5, 2))
        file.append(failed("b.mp4"))
    good, bad = rows(path)
    assert (good["path"], good["score"], good["judge"], good["prompt"]) == ("a.mp4", 70.0, "brightness", "")
    assert good["segments"][1] == {"start": 10.0, "end": 20.0, "rating": 2, "explanation": "Seen \u2013 2."}
    assert good["explanation"].splitlines()[1] == "0:10.0-0:20.0  2.0/5  Seen \u2013 2."
    assert (bad["path"], bad["score"], bad["error"]) == ("b.mp4", None, "It is cut short.")
    with ResultFile(path) as file:
        assert file.answer(question("a.mp4")) == rated("a.mp4", 5, 2)
        assert file.answer(question("b.mp4")) is None
        assert file.answer(question("a.mp4", prompt="fog")) is None


def test_a_file_that_was_cut_anywhere_in_its_last_line_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    with ResultFile(path) as file:
        file.append(rated("a.mp4", 5))
        whole = path.read_bytes()
        file.append(rated("b.mp4", 4))
    both = path.read_bytes()
    for length in (*range(len(whole), len(both), 13), len(both) - 1):
        path.write_bytes(both[:length])
        with ResultFile(path) as file:
            assert file.answer(question("a.mp4"))
            # Only the line's end is missing: the result is whole.
            assert bool(file.answer(question("b.mp4"))) == (length == len(both) - 1)
            file.append(rated("b.mp4", 4))
        assert path.read_bytes() == both


def test_a_new_answer_takes_the_place_of_an_error_or_of_another_content(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    with ResultFile(path) as file:
        file.append(failed("a.mp4"))
        file.append(rated("b.mp4", 1, fingerprint="old"))
    with ResultFile(path) as file:
        file.append(rated("a.mp4", 5))
        file.append(rated("b.mp4", 4, fingerprint="new"))
        # As it is if the program dies here: nothing is lost, and the next one tidies up.
        assert len(rows(path)) == 4
        untidy = path.read_bytes()
    assert [(row["path"], row["score"]) for row in rows(path)] == [("a.mp4", 100.0), ("b.mp4", 80.0)]
    path.write_bytes(untidy)
    with ResultFile(path) as file:
        assert file.answer(question("b.mp4")).fingerprint == "new"
        assert len(rows(path)) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"\x00\x00\x00\x20ftypisom" * 50,
        b'{"path": "a.mp4", "prompt": "a list of prompts"}',
        b'{"path": "a.mp4", "score"\n{"path": "b.mp4"',
        b"{'path': ",
        "caf\u00e9\n".encode("latin-1"),
    ],
)
def test_a_file_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(content)
    with pytest.raises(ResultFileError, match="video.mp4 line 1 is no result"), ResultFile(path):
        pass
    assert path.read_bytes() == content


def test_a_table_shows_the_worst_moment_and_what_failed() -> None:
    lines = result_table([rated("a.mp4", 5, 2), failed("b.mp4"), rated("c.mp4", 5)]).splitlines()
    assert lines[1].split() == ["70.0", "2.0/5", "0:10.0", "0:20.0", "a.mp4"]
    assert lines[2].split() == ["failed", "b.mp4"]
    assert lines[4].split() == ["85.0", "mean", "of", "2", "videos"]
