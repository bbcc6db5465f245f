"""What the evaluate stage makes again when it goes on in the same folder, and what it does not."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from sfpp_core.tiny.family import load_student
from tests.helpers.small_evaluation import ARMS, config, write_files
from training.config import ConfigError
from training.evaluation.results import VideoKey, VideoRecord, append_record, read_records
from training.evaluation.rollouts import ArmConfig
from training.models.export import write_weights
from training.stages.evaluate import run


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts, and a reader that has learnt nothing."""
    return write_files(tmp_path_factory.mktemp("files"))


def test_other_weights_are_other_videos(files: Path, tmp_path: Path) -> None:
    """An evaluation never mixes videos of a student before and after it was trained on."""
    network, rollout = load_student()
    path = tmp_path / "student.safetensors"
    header = {"kind": "student", "model": asdict(network.config), "rollout": asdict(rollout)}
    arms = [ArmConfig(name="mine", weights=str(path))]
    for number in (1, 2):
        write_weights(path, network.state_dict(), header)
        settings = config(files, tmp_path, arms=arms, baselines=["mine"], lengths=[5.0], prompts=1, reader=None)
        assert run(settings)
        assert len(read_records(tmp_path)) == number
        with torch.no_grad():
            network.head.head.weight.mul_(0.9)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["measures"]["stability"]["mean"]["mine"]["5"]["films"] == 1
    assert "frechet_distance" not in report["measures"] and "all_five" not in report["measures"]


def test_another_negative_prompt_makes_other_videos_of_the_teacher_alone(files: Path, tmp_path: Path) -> None:
    """It is half of the teacher's guidance, and a student is never told it."""
    arms = [ArmConfig(name="student"), ArmConfig(name="teacher", kind="teacher")]
    settings = config(files, tmp_path, arms=arms, lengths=[5.0], prompts=1, prompts_kept=0, reader=None)
    assert run(settings)
    words = "A green ball bounces slowly in a desert."
    assert run(replace(settings, conditioning=replace(settings.conditioning, negative_prompt=words)))
    figures = {arm.name: [] for arm in arms}
    for (key, _), record in read_records(tmp_path).items():
        figures[key.arm].append(record.figures["5"])
    before, after = figures["teacher"]
    assert len(figures["student"]) == 1 and before != after


def test_videos_that_were_judged_before_prompts_kept_was_raised_are_named(
    files: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Doing what the log says makes them."""
    settings = config(files, tmp_path, arms=ARMS[:1], baselines=["truth"], lengths=[5.0])
    assert run(settings) and "prompts_kept" not in caplog.text
    more = replace(settings, prompts_kept=2)
    assert run(more)
    assert "prompts_kept is 2, but videos judged before were not kept" in caplog.text
    told = "sheets lack them: truth prompt 1; to have them made and kept, remove their lines (take 0) from"
    assert f"{told} {tmp_path}" in caplog.text
    assert not (tmp_path / "sheet_001.png").exists()
    path = tmp_path / "films-000.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"prompt": 1' not in line))
    caplog.clear()
    assert run(more) and "prompts_kept" not in caplog.text
    assert (tmp_path / "sheet_001.png").exists() and (tmp_path / "films" / "p001_0_truth.mp4").exists()


def test_a_line_without_an_end_is_cut_off_and_a_strange_one_refused(tmp_path: Path) -> None:
    key = VideoKey(arm="a", prompt=0, take=0)
    empty = {"figures": {}, "features": {}, "curves": {}}
    record = VideoRecord(key=key, identity="x", text="A video.", seed=1, seconds=0.1, **empty)
    append_record(tmp_path, 0, record)
    with (tmp_path / "films-000.jsonl").open("ab") as file:
        file.write(b'{"key": {"arm": "a", "pro')
    assert set(read_records(tmp_path)) == {(key, "x")}
    append_record(tmp_path, 0, replace(record, identity="y"))
    assert set(read_records(tmp_path)) == {(key, "x"), (key, "y")}
    (tmp_path / "films-001.jsonl").write_text('{"path": "a.mp4"}\n')
    with pytest.raises(ConfigError, match="films-001.jsonl line 1 is no video of the evaluate stage"):
        read_records(tmp_path)
