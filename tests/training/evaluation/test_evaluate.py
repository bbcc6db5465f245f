"""The evaluate stage from its configuration to its report, in pieces, in several processes, and after a crash."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfpp_core.tiny.family import load_student
from sfpp_core.video.reader import VideoReader
from tests.helpers.small_evaluation import ARMS, config, write_files
from tests.helpers.smoke_family import CONFIGS
from training.config import load_config
from training.engine.distributed import DistContext
from training.evaluation.report import processor
from training.evaluation.results import VideoKey, read_records
from training.evaluation.rollouts import ArmConfig
from training.stages.evaluate import EvaluateStageConfig, run


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts, and a reader that has learnt nothing."""
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def finished(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an evaluation that ran in one go."""
    out = tmp_path_factory.mktemp("finished")
    assert run(config(files, out))
    return out


def findings_of(folder: Path) -> dict[VideoKey, dict[str, object]]:
    """All videos but for the time that they took."""
    return {
        key: {name: value for name, value in asdict(record).items() if name != "seconds"}
        for (key, _), record in read_records(folder).items()
    }


def test_every_video_is_judged_at_every_length_that_it_reaches(finished: Path) -> None:
    videos = findings_of(finished)
    assert set(videos) == {VideoKey(arm=arm.name, prompt=prompt, take=0) for arm in ARMS for prompt in range(2)}
    for key, video in videos.items():
        assert set(video["figures"]) == ({"5"} if key.arm == "teacher" else {"5", "6"})
        for figures in video["figures"].values():
            assert 0 <= figures["stability"] <= 100 and figures["all_five"] in (0.0, 1.0)
        assert all(len(features) == 21 for features in video["features"].values())


def test_videos_of_the_same_prompt_and_take_share_their_noise_in_all_arms(finished: Path) -> None:
    """A restarted video is the rolled one until its cache is first dropped, at 5 s; the window counts 21 frames."""
    videos = findings_of(finished)
    for prompt in range(2):
        rolled, restarted = (videos[VideoKey(arm=arm, prompt=prompt, take=0)] for arm in ("student", "restarted"))
        assert rolled["seed"] == restarted["seed"]
        assert rolled["figures"]["5"]["stability"] == pytest.approx(restarted["figures"]["5"]["stability"], abs=0.5)
        assert rolled["figures"]["6"] != restarted["figures"]["6"]
    assert len({video["seed"] for video in videos.values()}) == 2


def test_the_report_has_tables_plots_sheets_and_videos(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    stability = report["measures"]["stability"]
    assert set(stability["mean"]) == {arm.name for arm in ARMS}
    assert stability["mean"]["teacher"]["6"]["mean"] is None
    assert stability["change_since_shortest"]["student"]["5"]["mean"] == 0
    assert stability["difference_from_student"]["student"]["6"]["mean"] == 0
    estimate = stability["mean"]["student"]["6"]
    assert estimate["low"] <= estimate["mean"] <= estimate["high"] and estimate["films"] == 2
    assert report["measures"]["frechet_distance"]["mean"]["truth"]["6"]["mean"] is None, "two videos have no spread"
    assert report["config"]["prompts"] == 2
    assert report["machine"]["processor"] == processor() and report["machine"]["threads"] >= 1
    of_videos = report["stability_of_films"]["student"]["6"]
    assert np.mean(of_videos) == pytest.approx(estimate["mean"], abs=0.01) and np.shape(of_videos) == (2, 1)
    assert report["stability_of_films"]["teacher"]["6"] == [[None], [None]]
    text = (finished / "report.md").read_text()
    assert "## Visual Stability, video so far, difference from student" in text and "| teacher |" in text
    for name in ("stability", "motion", "truth", "prompt", "drift", "sheet_000"):
        with Image.open(finished / f"{name}.png") as picture:
            assert picture.width == 1024 or name == "sheet_000"
    with VideoReader(finished / "films" / "p000_0_student.mp4") as video:
        assert sum(len(frames) for frames in video.chunks(50)) == 97
    with Image.open(finished / "films" / "p000_0_student.png") as strip:
        assert strip.size == (3 * 16, 16)


def test_the_truth_moves_as_much_as_the_truth(finished: Path) -> None:
    measures = json.loads((finished / "report.json").read_text())["measures"]
    ratio = measures["dynamic_degree"]["multiple_of_truth"]["truth"]["6"]["mean"]
    assert ratio in (None, pytest.approx(1.0))
    assert abs(measures["luminance_bias"]["mean"]["truth"]["6"]["mean"]) < 0.2


def test_a_second_run_makes_nothing_and_a_crash_costs_one_video(files: Path, finished: Path) -> None:
    path = finished / "films-000.jsonl"
    whole, before = path.read_bytes(), findings_of(finished)
    assert run(config(files, finished)) and path.read_bytes() == whole
    path.write_bytes(whole[:-200])
    assert run(config(files, finished))
    after = findings_of(finished)
    assert set(after) == set(before)
    kept = path.read_bytes()[: whole.rfind(b"\n", 0, -1) + 1]
    assert whole.startswith(kept), "only the broken line was made again"


def test_two_processes_find_what_one_finds(files: Path, finished: Path, tmp_path: Path) -> None:
    truth = config(files, tmp_path, arms=ARMS[:1], baselines=["truth"])
    assert not run(truth, DistContext(rank=1, size=2)), "the report waits for the other process"
    assert not (tmp_path / "report.json").exists()
    assert run(truth, DistContext(rank=0, size=2))
    assert len(list(tmp_path.glob("films-*.jsonl"))) == 2
    alone, shared = findings_of(finished), findings_of(tmp_path)
    assert shared and all(alone[key]["figures"] == video["figures"] for key, video in shared.items())


def test_pictures_show_the_arms_that_are_asked_for_and_tables_all(files: Path, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    assert run(config(files, tmp_path, drawn=["student", "restarted"]))
    with Image.open(finished / "sheet_000.png") as every, Image.open(tmp_path / "sheet_000.png") as two:
        assert two.width == every.width and two.height < every.height
    assert (tmp_path / "stability.png").read_bytes() != (finished / "stability.png").read_bytes()
    stability = json.loads((tmp_path / "report.json").read_text())["measures"]["stability"]
    assert set(stability["mean"]) == {arm.name for arm in ARMS}


def test_a_run_is_paused_between_batches(files: Path, tmp_path: Path) -> None:
    paused = config(files, tmp_path, arms=ARMS[:1], baselines=["truth"])
    paused = replace(paused, run=replace(paused.run, max_minutes=1e-9))
    assert not run(paused)
    assert not (tmp_path / "report.json").exists()


def test_an_arm_changes_what_it_names_and_nothing_else() -> None:
    _, trained = load_student()
    assert ArmConfig(name="a").rollout() == trained
    assert ArmConfig(name="a", window=15, sink=3).rollout() == replace(trained, window=15, sink=3)
    assert ArmConfig(name="a", cache_noise=100.0).rollout() == replace(trained, context_noise=100.0)


def test_the_configuration_for_wan_judges_at_its_size_what_needs_no_truth() -> None:
    settings = load_config(EvaluateStageConfig, CONFIGS.parent / "wan" / "evaluate.yaml")
    assert (settings.width, settings.height, settings.lengths) == (832, 480, [5, 50, 75, 100, 255])
    assert settings.reader is None and all(arm.kind != "truth" for arm in settings.arms)
    assert all("Wan2.1" in arm.path or "runs/wan" in arm.path for arm in settings.arms)


def test_the_shipped_configuration_is_the_full_protocol() -> None:
    settings = load_config(EvaluateStageConfig, CONFIGS / "evaluate.yaml")
    assert settings.lengths == [5, 50, 75, 100, 255, 1200]
    assert (settings.prompts, settings.takes) == (32, 3)
