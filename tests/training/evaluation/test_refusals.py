"""What the evaluate stage refuses, before it makes a video wherever that can be told."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sfpp_core.tiny.family import load_student, weights_path
from sfpp_core.wan.config import WanConfig
from tests.helpers.models import random_transformer
from tests.helpers.small_evaluation import ARMS, config, write_files
from tests.helpers.smoke_family import CONFIGS
from training.__main__ import main
from training.config import ConfigError
from training.data.prompt_embeds import ConditioningConfig
from training.evaluation.results import read_records
from training.evaluation.rollouts import ArmConfig
from training.models.export import write_weights
from training.stages.evaluate import run


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts, and a reader that has learnt nothing."""
    return write_files(tmp_path_factory.mktemp("files"))


def test_a_video_that_holds_no_numbers_is_no_black_one(
    files: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network, rollout = load_student()
    with torch.no_grad():
        network.head.head.bias.fill_(torch.nan)
    header = {"kind": "student", "model": asdict(network.config), "rollout": asdict(rollout)}
    write_weights(tmp_path / "student.safetensors", network.state_dict(), header)
    words = [
        *("evaluate", "--config", str(CONFIGS / "evaluate.yaml")),
        *("reader=null", "lengths=[5]", "prompts=1", "takes=1", "batch=1"),
        *(f"arms=[{{name: mine, weights: {tmp_path}/student.safetensors}}]", "baselines=[mine]", "run.device=cpu"),
        *(f"conditioning.prompts={files}/prompts.txt", f"run.out={tmp_path}/out", "height=16", "width=16"),
    ]
    assert main(words) == 1
    assert "mine, prompt 0, take 0: its pictures hold non-finite values" in caplog.records[-1].getMessage()
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
def test_an_arm_that_cannot_be_opened_is_refused_before_the_first_one_makes_a_video(
    files: Path, tmp_path: Path, fault: str, kind: str, message: str
) -> None:
    last = ArmConfig(name="last", kind=kind, weights=str(weights_of(fault, tmp_path)))
    with pytest.raises(ConfigError, match=message):
        run(config(files, tmp_path / "out", arms=[*ARMS, last]))
    assert not (tmp_path / "out").exists()


def test_a_truth_that_cannot_be_rendered_is_refused_before_the_first_arm_makes_a_video(
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


def test_a_reader_judges_squares_whether_or_not_an_arm_is_the_truth(files: Path, tmp_path: Path) -> None:
    """It renders a truth of its own, as high as it is wide."""
    settings = config(files, tmp_path / "out", arms=[ArmConfig(name="student")], width=32)
    with pytest.raises(ConfigError, match="height is 16 and width 32; .* Make both the same, or leave reader, .* out"):
        run(settings)
    assert not (tmp_path / "out").exists()


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


def test_too_few_prompts_are_refused(files: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="prompts is 9, but conditioning has 2"):
        run(config(files, tmp_path, prompts=9))
