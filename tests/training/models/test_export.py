"""One file out of a run: the right weights, the right settings, and every loader takes it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from sfpp_core.checkpoint import open_checkpoint
from sfpp_core.tiny.family import load_student, load_teacher, weights_path
from tests.helpers.small_disk import small_disk
from tests.helpers.smoke_family import FULL_PRECISION
from training.__main__ import main
from training.config import load_config
from training.data.clips import clip_shard, clip_shards
from training.engine.run_folder import RunFolder, named_files, read_run
from training.models.export import training_record, write_weights
from training.models.open import open_transformer
from training.stages import causal_init, reader

CONFIGS = Path(__file__).parents[3] / "training" / "configs" / "tiny"
SHORT = ["steps=2", "optimizer.warmup=1", "optimizer.decay=0", "run.workers=0", "batch=1", *FULL_PRECISION]


def train(folder: Path, *words: str) -> str:
    """Two steps of a student, from the shipped teacher; its folder."""
    clips = torch.randn(2, 16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    clip_shards(folder).write(0, clip_shard(clips, [["Snow."], ["Fog."]]), total=1)
    files = [f"teacher={weights_path('teacher')}", f"vae={weights_path('vae')}"]
    files += [f"text_encoder={weights_path('text_encoder')}", f"data=[{{folder: {folder}, clips: 2}}]", "frames=3"]
    config = str(CONFIGS / "causal_init.yaml")
    assert main(["causal_init", "--config", config, f"run.out={folder}/run", *SHORT, *files, *words]) == 0
    return f"{folder}/run"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(causal_init, "WATCHED_FRAMES", 3)
        return train(tmp_path_factory.mktemp("source"), "optimizer.lr=0.01", "optimizer.ema=0.5")


def export(source: str, out: Path, *words: str) -> Path:
    config = str(CONFIGS / "export.yaml")
    assert main(["export", "--config", config, f"source={source}", f"run.out={out}", *words]) == 0
    return out / "student.safetensors"


def stored(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def header(path: Path) -> dict:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["sfpp"])


def test_the_file_is_what_the_stage_itself_would_ship(source: str, tmp_path: Path) -> None:
    mine, theirs = stored(export(source, tmp_path)), stored(Path(source) / "student.safetensors")
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], weight) and weight.dtype == torch.float16 for name, weight in theirs.items())


def test_every_loader_takes_it_with_its_settings(source: str, tmp_path: Path) -> None:
    path = export(source, tmp_path, "dtype=float32")
    student, rollout = load_student(path)
    checkpoint = open_checkpoint(path)
    assert checkpoint.preset is not None and checkpoint.preset.rollout == rollout
    assert (rollout.chunk, rollout.window, rollout.shift, len(rollout.first_chunk_steps)) == (3, 21, 5.0, 8)
    assert checkpoint.config == student.config == load_teacher().config
    opened = open_transformer(str(path)).state_dict()
    assert all(torch.equal(opened[name], weight) for name, weight in student.state_dict().items())


def test_averaged_and_raw_weights_are_those_of_the_checkpoint(source: str, tmp_path: Path) -> None:
    state = read_run(source).networks["model"]
    averaged = stored(export(source, tmp_path / "averaged", "dtype=float32"))
    raw = stored(export(source, tmp_path / "raw", "dtype=float32", "weights=raw"))
    for name in raw:
        assert torch.equal(raw[name], state["weights"][name]) and torch.equal(averaged[name], state["average"][name])
    assert any(not torch.equal(raw[name], averaged[name]) for name in raw)
    assert header(tmp_path / "raw" / "student.safetensors")["training"]["weights"] == "raw"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_precision_is_as_asked(dtype: str, source: str, tmp_path: Path) -> None:
    weights = stored(export(source, tmp_path, f"dtype={dtype}"))
    assert {weight.dtype for weight in weights.values()} == {getattr(torch, dtype)}
    load_student(tmp_path / "student.safetensors")


def test_a_sink_may_be_given_to_a_student_that_was_trained_without(
    source: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain, held = export(source, tmp_path / "plain"), export(source, tmp_path / "held", "sink=3")
    (_, trained), (_, told) = load_student(plain), load_student(held)
    assert (trained.sink, told) == (0, replace(trained, sink=3))
    assert all(torch.equal(weight, stored(held)[name]) for name, weight in stored(plain).items())
    words = ["export", "--config", str(CONFIGS / "export.yaml"), f"source={source}", f"run.out={tmp_path / 'no'}"]
    assert main([*words, "sink=20"]) == 2
    assert "sink: window is 21, but it must hold the sink (20)" in caplog.text


def test_a_run_that_goes_on_is_exported_where_it_stands_and_left_alone(tmp_path: Path) -> None:
    source = train(tmp_path, "run.max_minutes=1e-9")
    before = {path: path.stat().st_mtime_ns for path in Path(source).rglob("*")}
    assert header(export(source, tmp_path / "out"))["training"]["steps"] == 1
    assert {path: path.stat().st_mtime_ns for path in Path(source).rglob("*")} == before


def test_the_header_tells_how_it_was_made_but_not_where(source: str, tmp_path: Path) -> None:
    told = header(export(source, tmp_path))
    assert (told["kind"], told["training"]["stage"], told["training"]["steps"]) == ("student", "causal_init", 2)
    assert source not in json.dumps(told) and "run" not in told["training"]["config"]


def test_what_names_no_file_is_told_whole() -> None:
    negative = "jpeg artifacts/blurry, low quality"
    texts = f"conditioning={{prompts: /home/me/prompts.txt, negative_prompt: '{negative}'}}"
    words = [texts, "trajectories=/home/me/runs/ode_pairs", "vae=models/vae.pth"]
    config = load_config(causal_init.CausalInitStageConfig, CONFIGS / "causal_init_ode.yaml", words)
    told = training_record(config, stage="causal_init", steps=1)["config"]
    assert told["conditioning"]["negative_prompt"] == negative
    assert named_files({"negative_prompt": __file__, "vae": __file__}) == {"vae": Path(__file__)}
    assert (told["conditioning"]["prompts"], told["trajectories"], told["vae"]) == (
        "prompts.txt",
        "ode_pairs",
        "vae.pth",
    )


def test_without_an_average_only_raw_weights_can_be_had(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = train(tmp_path, "run.max_minutes=1e-9", "optimizer.ema=0")
    words = ["export", "--config", str(CONFIGS / "export.yaml"), f"source={source}", f"run.out={tmp_path / 'out'}"]
    assert main(words) == 2
    assert "keeps no average of model (its optimizer.ema is 0); write weights=raw" in caplog.text
    export(source, tmp_path / "raw", "weights=raw")


def test_what_holds_no_student_is_refused(source: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = load_config(reader.ReaderStageConfig, CONFIGS / "reader.yaml", [f"run.out={tmp_path / 'reader'}"])
    empty = load_config(reader.ReaderStageConfig, CONFIGS / "reader.yaml", [f"run.out={tmp_path / 'empty'}"])
    RunFolder(empty, stage="reader")
    RunFolder(other, stage="reader").save(1, {"step": 1, "networks": {}})
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "config.yaml").write_text("stage: sfpp3\nsteps: 1\n")
    (newer / "checkpoint-00000001").mkdir()
    for folder, words, sentence in (
        ("nowhere", [], "nowhere holds no run .config.yaml is missing"),
        (tmp_path / "empty", [], "holds no checkpoint yet"),
        (tmp_path / "reader", [], "holds a run of reader, which trains no student"),
        (newer, [], "holds a run that cannot be read here"),
        (source, ["weights=best"], "weights is 'best'; it must be one of averaged, raw"),
        (source, ["dtype=float8"], "dtype is 'float8'; it must be one of float32, bfloat16, float16"),
        (source, [f"run.out={source}"], "run.out is the source itself"),
    ):
        caplog.clear()
        common = ["export", "--config", str(CONFIGS / "export.yaml"), f"run.out={tmp_path / 'out'}"]
        assert main([*common, f"source={folder}", *words]) == 2
        assert re.search(sentence, caplog.text), (sentence, caplog.text)


def test_a_file_that_no_room_is_left_for_is_not_written(
    source: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    words = ["export", "--config", str(CONFIGS / "export.yaml"), f"source={source}", f"run.out={disk}/out"]
    with small_disk(disk, megabytes=1):
        assert main(words) == 1
        assert {path.name for path in (disk / "out").iterdir()} == {"config.yaml", "inputs.json"}
    assert "the disk is full: " in caplog.text and "os error 28" in caplog.text
    assert main(words) == 0, "where there is room"


def test_the_same_weights_are_the_same_bytes(tmp_path: Path) -> None:
    """A finished run that is started again writes its file again, and runs that begin with it go on."""
    weights, header = {"b": torch.ones(2), "a": torch.zeros(3)}, {"kind": "reader", "seed": 1}
    files = []
    for number in range(8):
        write_weights(tmp_path / f"{number}.safetensors", weights, header)
        files.append((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(set(files)) == 1
