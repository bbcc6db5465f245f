"""The evaluate stage from its configuration to its report, in pieces, in several processes, and after a crash."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sfpp_core.tiny.family import load_student, weights_path
from sfpp_core.video.reader import VideoReader
from sfpp_core.wan.config import WanConfig
from tests.core.models import random_transformer
from training.__main__ import main
from training.conditioning import ConditioningConfig
from training.config import ConfigError, RunConfig, load_config
from training.evaluation.arms import ArmConfig
from training.evaluation.makers import SamplerConfig
from training.evaluation.records import FilmKey, FilmRecord, append_record, read_records
from training.export import write_weights
from training.parallel import World
from training.reader import AttributeReader
from training.scenes import prompt_for, sample_scene
from training.stages.evaluate import Config, run

SHIPPED = Path(__file__).parents[2] / "training" / "configs" / "tiny" / "evaluate.yaml"
ARMS = [
    ArmConfig(name="truth", kind="truth"),
    ArmConfig(name="student"),
    ArmConfig(name="restarted", overlap=3),
    ArmConfig(name="teacher", kind="teacher"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts, and a reader that has learnt nothing."""
    folder = tmp_path_factory.mktemp("files")
    prompts = [prompt_for(sample_scene(6, index)) for index in range(2)]
    (folder / "prompts.txt").write_text("\n".join(prompts), encoding="utf-8")
    torch.manual_seed(0)
    reader = AttributeReader()
    write_weights(folder / "reader.safetensors", reader.state_dict(), reader.header())
    return folder


def config(files: Path, out: Path, **changes: object) -> Config:
    """Two prompts of 16x16 pixels, 5 and 6 seconds."""
    settings = {
        "run": RunConfig(out=str(out), device="cpu"),
        "precision": "float32",
        "arms": ARMS,
        "baselines": ["student"],
        "conditioning": ConditioningConfig(prompts=str(files / "prompts.txt")),
        "reader": str(files / "reader.safetensors"),
        "prompts": 2,
        "takes": 1,
        "lengths": [5.0, 6.0],
        "batch": 2,
        "height": 16,
        "width": 16,
        "truth_scenes": 2,
        "prompts_kept": 1,
        "teacher": SamplerConfig(steps=1),
    }
    return Config(**settings | changes)


@pytest.fixture(scope="module")
def finished(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an evaluation that ran in one go."""
    out = tmp_path_factory.mktemp("finished")
    assert run(config(files, out))
    return out


def findings_of(folder: Path) -> dict[FilmKey, dict[str, object]]:
    """All films but for the time that they took."""
    return {
        key: {name: value for name, value in asdict(record).items() if name != "seconds"}
        for (key, _), record in read_records(folder).items()
    }


def test_every_film_is_judged_at_every_length_that_it_reaches(finished: Path) -> None:
    films = findings_of(finished)
    assert set(films) == {FilmKey(arm=arm.name, prompt=prompt, take=0) for arm in ARMS for prompt in range(2)}
    for key, film in films.items():
        assert set(film["figures"]) == ({"5"} if key.arm == "teacher" else {"5", "6"})
        for figures in film["figures"].values():
            assert 0 <= figures["stability"] <= 100 and figures["all_five"] in (0.0, 1.0)
        assert all(len(features) == 21 for features in film["features"].values())


def test_films_of_the_same_prompt_and_take_share_their_noise_in_all_arms(finished: Path) -> None:
    """A restarted film is the rolled one until its cache is first dropped, at 5 s; the window counts 21 frames."""
    films = findings_of(finished)
    for prompt in range(2):
        rolled, restarted = (films[FilmKey(arm=arm, prompt=prompt, take=0)] for arm in ("student", "restarted"))
        assert rolled["seed"] == restarted["seed"]
        assert rolled["figures"]["5"]["stability"] == pytest.approx(restarted["figures"]["5"]["stability"], abs=0.5)
        assert rolled["figures"]["6"] != restarted["figures"]["6"]
    assert len({film["seed"] for film in films.values()}) == 2


def test_the_report_has_tables_plots_sheets_and_films(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    stability = report["measures"]["stability"]
    assert set(stability["mean"]) == {arm.name for arm in ARMS}
    assert stability["mean"]["teacher"]["6"]["mean"] is None
    assert stability["change_since_shortest"]["student"]["5"]["mean"] == 0
    assert stability["difference_from_student"]["student"]["6"]["mean"] == 0
    estimate = stability["mean"]["student"]["6"]
    assert estimate["low"] <= estimate["mean"] <= estimate["high"] and estimate["films"] == 2
    assert report["measures"]["frechet_distance"]["mean"]["truth"]["6"]["mean"] is None, "two films have no spread"
    assert report["config"]["prompts"] == 2
    of_films = report["stability_of_films"]["student"]["6"]
    assert np.mean(of_films) == pytest.approx(estimate["mean"], abs=0.01) and np.shape(of_films) == (2, 1)
    assert report["stability_of_films"]["teacher"]["6"] == [[None], [None]]
    text = (finished / "report.md").read_text()
    assert "## Visual Stability, film so far, difference from student" in text and "| teacher |" in text
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


def test_a_second_run_makes_nothing_and_a_crash_costs_one_film(files: Path, finished: Path) -> None:
    path = finished / "films-000.jsonl"
    whole, before = path.read_bytes(), findings_of(finished)
    assert run(config(files, finished)) and path.read_bytes() == whole
    path.write_bytes(whole[:-200])
    assert run(config(files, finished))
    after = findings_of(finished)
    assert set(after) == set(before)
    kept = path.read_bytes()[: whole.rfind(b"\n", 0, -1) + 1]
    assert whole.startswith(kept), "only the broken line was made anew"


def test_two_processes_find_what_one_finds(files: Path, finished: Path, tmp_path: Path) -> None:
    truth = config(files, tmp_path, arms=ARMS[:1], baselines=["truth"])
    assert not run(truth, World(rank=1, size=2)), "the report waits for the other process"
    assert not (tmp_path / "report.json").exists()
    assert run(truth, World(rank=0, size=2))
    assert len(list(tmp_path.glob("films-*.jsonl"))) == 2
    alone, shared = findings_of(finished), findings_of(tmp_path)
    assert shared and all(alone[key]["figures"] == film["figures"] for key, film in shared.items())


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


def test_other_weights_are_other_films(files: Path, tmp_path: Path) -> None:
    """An evaluation never mixes films of a student before and after it was trained on."""
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


def test_a_film_that_holds_no_numbers_is_no_black_one(
    files: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network, rollout = load_student()
    with torch.no_grad():
        network.head.head.bias.fill_(torch.nan)
    header = {"kind": "student", "model": asdict(network.config), "rollout": asdict(rollout)}
    write_weights(tmp_path / "student.safetensors", network.state_dict(), header)
    words = [
        *("evaluate", "--config", str(SHIPPED), "reader=null", "lengths=[5]", "prompts=1", "takes=1", "batch=1"),
        *(f"arms=[{{name: mine, weights: {tmp_path}/student.safetensors}}]", "baselines=[mine]", "run.device=cpu"),
        *(f"conditioning.prompts={files}/prompts.txt", f"run.out={tmp_path}/out", "height=16", "width=16"),
    ]
    assert main(words) == 1
    assert "mine, prompt 0, take 0: its pictures hold values that are no numbers" in caplog.records[-1].getMessage()
    assert not read_records(tmp_path / "out")


OTHER_TEXTS = WanConfig(dim=128, ffn_dim=64, num_heads=1, num_layers=1, text_dim=32, freq_dim=32)


def weights_of(fault: str, folder: Path) -> Path:
    """A file that no arm can be made of, for one reason or another."""
    path = folder / f"{fault}.safetensors"
    if fault == "headless":
        save_file(load_file(weights_path("student")), path)
    elif fault == "other texts":
        header = {"kind": "student", "model": asdict(OTHER_TEXTS), "rollout": asdict(load_student()[1])}
        write_weights(path, random_transformer(OTHER_TEXTS, seed=1).state_dict(), header)
    elif fault in ("vae", "student", "teacher"):
        path.write_bytes(weights_path(fault).read_bytes())
    return path


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("missing", "student", "arm last: .*missing.safetensors: found no such file"),
        ("missing", "teacher", "arm last: .*missing.safetensors: found no such file"),
        ("vae", "teacher", "arm last: .*vae.safetensors: found this project's own vae"),
        ("teacher", "student", "arm last: .*teacher.safetensors holds a teacher, .* where a student is needed"),
        ("student", "teacher", "arm last: .*student.safetensors holds a student, .* where a teacher is needed"),
        ("headless", "student", "headless.safetensors does not say how its student is sampled"),
        ("other texts", "student", "arm last: .* reads embeddings 32 wide, but those of conditioning are 4096 wide"),
    ],
)
def test_an_arm_that_cannot_be_opened_is_refused_before_the_first_one_makes_a_film(
    files: Path, tmp_path: Path, fault: str, kind: str, message: str
) -> None:
    last = ArmConfig(name="last", kind=kind, weights=str(weights_of(fault, tmp_path)))
    with pytest.raises(ConfigError, match=message):
        run(config(files, tmp_path / "out", arms=[*ARMS, last]))
    assert not (tmp_path / "out").exists()


def test_a_truth_that_cannot_be_rendered_is_refused_before_the_first_arm_makes_a_film(
    files: Path, tmp_path: Path
) -> None:
    arms = [ArmConfig(name="student"), ArmConfig(name="truth", kind="truth")]
    settings = config(files, tmp_path / "out", arms=arms, reader=None)
    with pytest.raises(ConfigError, match="height is 16 and width 32; procedural scenes are judged as squares"):
        run(replace(settings, width=32))
    (tmp_path / "prompts.txt").write_text("A lighthouse in a storm.")
    with pytest.raises(ConfigError, match="'A lighthouse in a storm.' names no place"):
        run(replace(settings, conditioning=ConditioningConfig(prompts=str(tmp_path / "prompts.txt")), prompts=1))
    assert not (tmp_path / "out").exists()


def test_a_line_without_an_end_is_cut_off_and_a_strange_one_refused(tmp_path: Path) -> None:
    key = FilmKey(arm="a", prompt=0, take=0)
    empty = {"figures": {}, "features": {}, "curves": {}}
    record = FilmRecord(key=key, identity="x", text="A film.", seed=1, seconds=0.1, **empty)
    append_record(tmp_path, 0, record)
    with (tmp_path / "films-000.jsonl").open("ab") as file:
        file.write(b'{"key": {"arm": "a", "pro')
    assert set(read_records(tmp_path)) == {(key, "x")}
    append_record(tmp_path, 0, replace(record, identity="y"))
    assert set(read_records(tmp_path)) == {(key, "x"), (key, "y")}
    (tmp_path / "films-001.jsonl").write_text('{"path": "a.mp4"}\n')
    with pytest.raises(ConfigError, match="films-001.jsonl line 1 is no film of the evaluate stage"):
        read_records(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baselines": ["nobody"]}, "name one or more of the arms: truth, student"),
        ({"baselines": []}, "name one or more of the arms"),
        ({"drawn": ["nobody"]}, "name some of the arms: truth, student"),
        ({"arms": [ARMS[1], ARMS[1]]}, "arms are called student, student; give each a name of its own"),
        ({"lengths": [5.0, 4.0]}, "they must rise, from at least 5 seconds"),
        ({"lengths": []}, "they must rise"),
        (
            {"lengths": [10.0, 50.0]},
            "arm teacher makes clips of 21 latent frames, which reach none of lengths, .*write teacher.frames=41",
        ),
        ({"height": 20}, "height is 20; it must be a positive multiple of 16 pixels"),
        ({"takes": 0}, "takes is 0; it must be at least 1"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_at_once(
    files: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config(files, tmp_path, **changes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "painter"}, "must be one of student, teacher, truth"),
        ({"name": "a/b"}, "it becomes file names"),
        ({"kind": "teacher", "overlap": 3}, "are a student's"),
        ({"kind": "truth", "weights": "x"}, "has no weights"),
        ({"autoencoded": True}, "leave that to the truth"),
        ({"light_crossing": 60.0}, "leave light_crossing to the truth"),
        ({"kind": "truth", "light_crossing": 0.0}, "seconds above 0"),
        ({"cache_noise": 1000.0}, "a timestep from 0 to below 1000"),
        ({"cache_noise": 10.0, "context_noise": 20.0}, "leave context_noise out"),
    ],
)
def test_an_arm_that_means_nothing_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ArmConfig(**{"name": "arm"} | settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 2}, "arm a: window is 2, but it must hold"),
        ({"overlap": 4}, "must be multiples of the chunk"),
        ({"overlap": 21}, "the overlap the shorter"),
        ({"overlap": 3, "sink": 3}, "and there is no sink"),
        ({"weights": "/nowhere/student.safetensors"}, "/nowhere/student.safetensors"),
    ],
)
def test_a_rollout_that_cannot_work_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ArmConfig(name="a", **settings).rollout()


def test_an_arm_changes_what_it_names_and_nothing_else() -> None:
    _, trained = load_student()
    assert ArmConfig(name="a").rollout() == trained
    assert ArmConfig(name="a", window=15, sink=3).rollout() == replace(trained, window=15, sink=3)
    assert ArmConfig(name="a", cache_noise=100.0).rollout() == replace(trained, context_noise=100.0)


def test_too_few_prompts_are_refused(files: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="prompts is 9, but conditioning has 2"):
        run(config(files, tmp_path, prompts=9))


def test_the_configuration_for_wan_judges_at_its_size_what_needs_no_truth() -> None:
    settings = load_config(Config, SHIPPED.parents[1] / "wan" / "evaluate.yaml")
    assert (settings.width, settings.height, settings.lengths) == (832, 480, [5, 50, 75, 100, 255])
    assert settings.reader is None and all(arm.kind != "truth" for arm in settings.arms)
    assert all("Wan2.1" in arm.path or "runs/wan" in arm.path for arm in settings.arms)


def test_the_shipped_configuration_is_the_full_protocol() -> None:
    settings = load_config(Config, SHIPPED)
    assert settings.lengths == [5, 50, 75, 100, 255, 1200]
    assert (settings.prompts, settings.takes) == (32, 3)
