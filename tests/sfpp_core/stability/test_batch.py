"""Many videos are rated side by side; what fails, fails alone; and nothing is asked of a judge twice."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
import torch

from sfpp_core.stability.batch.rate import Scorer, ScoringTask, rate_videos
from sfpp_core.stability.batch.results import Question, ResultFile, VideoResult
from sfpp_core.stability.ledger import RatingLedger
from tests.helpers.brightness_judge import BrightnessJudge
from tests.helpers.videos import HEIGHT, WIDTH, write


def video(path: Path, brightness: float, seconds: float = 2) -> Path:
    """A still video of one grey that grows a little lighter, so that no two parts are equal."""
    grey = torch.linspace(brightness, brightness + 0.05, round(16 * seconds))[:, None, None, None]
    return write(path, grey.expand(-1, HEIGHT, WIDTH, 3))


def asked(judge: BrightnessJudge) -> list[str]:
    return judge.asked.read_text().splitlines() if judge.asked.exists() else []


def task(path: Path, known: VideoResult | None = None) -> ScoringTask:
    return ScoringTask(
        question=Question(path=str(path), prompt="fog", judge="brightness", segment_seconds=0.5), known=known
    )


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_a_crashed_process_a_damaged_file_and_a_refusal_stop_nobody_else(tmp_path: Path) -> None:
    names = ("a.mp4", "crash.mp4", "damaged.mp4", "refused.mp4", "z.mp4")
    videos = {name: video(tmp_path / name, 0.1 * number) for number, name in enumerate(names, start=2)}
    videos["damaged.mp4"].write_bytes(videos["damaged.mp4"].read_bytes()[:1500])
    judge = BrightnessJudge(asked=tmp_path / "asked", deadly="crash.mp4", refused="refused.mp4")
    prompts = dict.fromkeys([*videos.values(), tmp_path / "missing.mp4"], "fog")
    ledger, path = RatingLedger(tmp_path / "ledger"), tmp_path / "scores.jsonl"

    def rate(judge: BrightnessJudge) -> dict[str, VideoResult]:
        with ResultFile(path) as file:
            make = partial(BrightnessJudge, asked=judge.asked, deadly=judge.deadly, refused=judge.refused)
            results = rate_videos(prompts, make, segment_seconds=0.5, num_processes=1, ledger=ledger, results=file)
            return {Path(result.question.path).name: result for result in results}

    results = rate(judge)
    assert results["a.mp4"].stability.score == pytest.approx(22.5, abs=2)
    assert results["z.mp4"].stability.score == pytest.approx(62.5, abs=2)
    assert "ended by SIGKILL" in results["crash.mp4"].error
    assert "damaged.mp4" in results["damaged.mp4"].error
    assert results["refused.mp4"].error == "refused.mp4 is not to my taste."
    assert "missing.mp4" in results["missing.mp4"].error
    assert sorted(asked(judge)) == sorted(
        [f"{name} {start:g} fog" for name in ("a.mp4", "z.mp4") for start in (0, 0.5, 1, 1.5)]
        + ["crash.mp4 0 fog", "crash.mp4 0.5 fog"]
    )

    again = rate(BrightnessJudge(asked=judge.asked))
    assert again["a.mp4"] == results["a.mp4"]
    assert again["crash.mp4"].stability.score == pytest.approx(32.5, abs=2)
    assert len(asked(judge)) == len(set(asked(judge))) == 16
    assert len(path.read_text().splitlines()) == 6


def test_a_known_result_holds_while_the_content_is_the_same(tmp_path: Path) -> None:
    judge = BrightnessJudge(asked=tmp_path / "asked")
    score = Scorer(judge, None)
    path = video(tmp_path / "a.mp4", 0.2)
    first = score(task(path))
    assert first.is_new
    assert len(asked(judge)) == 4
    os.utime(path, (0, 0))
    again = score(task(path, known=first.result))
    assert not again.is_new
    assert again.result == first.result
    assert len(asked(judge)) == 4
    video(path, 0.6)
    other = score(task(path, known=first.result))
    assert other.is_new
    assert other.result.stability.score > first.result.stability.score + 30
    assert len(asked(judge)) == 8


def test_what_the_ledger_holds_is_not_asked_again_also_for_a_copy(tmp_path: Path) -> None:
    judge, ledger = BrightnessJudge(asked=tmp_path / "asked"), RatingLedger(tmp_path / "ledger")
    path = video(tmp_path / "a.mp4", 0.2)
    first = Scorer(judge, ledger)(task(path))
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(path.read_bytes())
    second = Scorer(judge, ledger)(task(copy))
    assert second.is_new
    assert second.result.stability == first.result.stability
    assert len(asked(judge)) == 4


class BrokenJudge:
    name = "broken"

    def rate(self, video, prompt):
        raise ZeroDivisionError("a fault of ours")


def test_a_fault_of_the_program_is_told_with_its_kind(tmp_path: Path) -> None:
    scored = Scorer(BrokenJudge(), None)(task(video(tmp_path / "a.mp4", 0.2)))
    assert scored.result.error == "ZeroDivisionError: a fault of ours"
