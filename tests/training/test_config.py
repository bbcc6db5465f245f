"""Configurations: what the files say, and what a mistake is answered with."""

from __future__ import annotations

import importlib
import re
from functools import partial
from pathlib import Path

import pytest
import torch

from training.__main__ import STAGES, main
from training.config import ConfigError, load_config
from training.data.clips import ClipSource
from training.engine.optimizer import rate_factor
from training.scaling.__main__ import read_config
from training.scaling.counting import ScalingConfig
from training.stages import causal_init, evaluate_tiny, latents, ode_pairs, teacher, vae

CONFIGS = Path(__file__).parents[2] / "training" / "configs" / "tiny"


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_a_configuration_that_loads(stage: str) -> None:
    module = importlib.import_module(f"training.stages.{stage}")
    config = load_config(module.CONFIG, CONFIGS / f"{stage}.yaml")
    assert config.run.out.startswith("runs/tiny/")


def test_words_of_the_command_line_win() -> None:
    phase = "{start: 0, data: [{folder: a, clips: 4}], frames: 3, batch: 2}"
    words = ["optimizer.lr=0.5", "run.out=elsewhere", f"phases=[{phase}]"]
    config = load_config(teacher.TeacherStageConfig, CONFIGS / "teacher.yaml", words)
    assert (config.optimizer.lr, config.run.out) == (0.5, "elsewhere")
    assert config.phases == [teacher.TeacherPhase(start=0, data=[ClipSource(folder="a", clips=4)], frames=3, batch=2)]


def test_a_later_file_goes_over_an_earlier_one_and_words_over_both(tmp_path: Path) -> None:
    later = tmp_path / "short.yaml"
    later.write_text("steps: 200\nseed: 77\noptimizer: {decay: 50}\n")
    alone = load_config(vae.VAEStageConfig, CONFIGS / "vae.yaml")
    config = load_config(vae.VAEStageConfig, CONFIGS / "vae.yaml", ["seed=78"], more=[later])
    assert (config.steps, config.seed, config.optimizer.decay) == (200, 78, 50)
    assert (config.dim, config.optimizer.lr) == (alone.dim, alone.optimizer.lr)
    with pytest.raises(ConfigError, match="missing.yaml is no file"):
        load_config(vae.VAEStageConfig, CONFIGS / "vae.yaml", more=[tmp_path / "missing.yaml"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["optimizer.learning_rate=1"], "there is no key 'optimizer.learning_rate'"),
        (["steps=many"], "steps: Value 'many'"),
        (["optimizer.lr=-1"], "optimizer.lr is -1.0; it must be above 0"),
        (["optimizer.decay=99999"], "shorten them or train longer"),
        (["precision=float8"], "precision is 'float8'; it must be one of float32, bfloat16"),
        (["phases=[{start: 0, batch: 1, frames: 16, crop: 32}]"], "frames of a phase is 16; .* Try 17"),
        (["phases=[{start: 0, batch: 1, frames: 17, crop: 60}]"], "crop is 60; it must be a multiple of 8"),
        (["phases=[{start: 0, batch: 1, frames: 17, crop: 128}]"], "crop is 128; it must be at most size, 64"),
        (["dim=0"], "dim is 0; it must be at least 1"),
        (["size=60"], "size is 60; it must be a multiple of 8"),
        (["steps"], "'steps' is no override; write key=value"),
        (["run.out="], "run.out"),
        (["run.device=tpu"], "run.device is 'tpu'; write auto, cpu or cuda"),
    ],
)
def test_a_mistake_is_answered_in_a_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(vae.VAEStageConfig, CONFIGS / "vae.yaml", words)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"seed: 1\nphases:\n\t- 1\n", "short.yaml cannot be used .line 3: found character .*cannot start any token"),
        (b"seed: 1\nseed: 2\n", "short.yaml cannot be used .*duplicate key seed"),
        (b"name: caf\xe9\n", "short.yaml cannot be used .*utf-8.* byte 0xe9 .*; write lines of `key: value`, in UTF-8"),
        (b"- seed\n", "short.yaml holds a list; write lines of `key: value`"),
        (b"2026\n", "short.yaml cannot be used"),
        (b"phases: {start: 0}\n", "short.yaml cannot be used .*incompatible"),
        (b"sead: 1\n", "short.yaml: there is no key 'sead'"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "short.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=f"^{re.escape(str(tmp_path))}/{sentence}"):
        load_config(vae.VAEStageConfig, CONFIGS / "vae.yaml", more=[tmp_path / "short.yaml"])


@pytest.mark.parametrize(
    "word", ["seed=[1", "seed={a", "seed='1", "[=5", "seed=\t1", "phases={a: 1}", "phases[0].crop=8"]
)
def test_a_word_that_cannot_be_read_is_named(word: str, caplog: pytest.LogCaptureFixture) -> None:
    assert main(["vae", "--config", str(CONFIGS / "vae.yaml"), "steps=9", word, "dim=4"]) == 2
    assert re.match(
        rf"{re.escape(repr(word))} cannot be used .*; write key=value, e\.g\. run\.out=", caplog.messages[-1]
    )


@pytest.mark.parametrize("word", ["width=[1", "[=5", "gpus={a: 1}"])
def test_so_it_is_where_costs_are_counted(word: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^{re.escape(repr(word))} cannot be used .*; write key=value, e\.g\. height="
    ):
        read_config(ScalingConfig(), ["height=480", word])


LATE = "data: [{folder: a, clips: 4}], frames: 3, batch: 2"


def test_other_stages_refuse_what_cannot_work() -> None:
    for module, name, words, sentence in (
        (teacher, "teacher", ["model.dim=200"], "multiple of 128"),
        (teacher, "teacher", ["init=folder"], "give either model.*or init"),
        (teacher, "teacher", [f"phases=[{{start: 5, {LATE}}}]"], "they must rise, from 0"),
        (teacher, "teacher", ["phases=[{start: 0, data: [], frames: 3, batch: 2}]"], "data of a phase is empty"),
        (teacher, "teacher", ["train_text_encoder=false"], "a new text encoder knows no words"),
        (causal_init, "causal_init", ["data=[]"], "data is empty"),
        (causal_init, "causal_init", ["data=[{folder: a, clips: 0}]"], "clips of a is 0"),
        (causal_init, "causal_init", ["frames=20"], "multiple of student.chunk"),
        (causal_init, "causal_init", ["student.window=2"], "window is 2"),
        (causal_init, "causal_init", ["student.chunk=0"], "chunk is 0; at least 1"),
        (latents, "latents", ["clips=7"], "multiple of shard"),
        (latents, "latents", ["size=30"], "30; it must be a positive multiple of 16"),
        (ode_pairs, "ode_pairs", ["height=30"], "height is 30; it must be a positive multiple of 16"),
        (ode_pairs, "ode_pairs", ["student.steps=[]"], "steps is empty"),
        (evaluate_tiny, "evaluate_tiny", ["size=30"], "30; it must be a positive multiple of 16"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            load_config(module.CONFIG, CONFIGS / f"{name}.yaml", words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_networks_run_on_the_cpu_and_a_wanted_gpu_is_missed() -> None:
    load = partial(load_config, vae.VAEStageConfig, CONFIGS / "vae.yaml")
    assert load().device == torch.device("cpu") and load().autocast().device == "cpu"
    with pytest.raises(ConfigError, match="run.device is cuda:1, but PyTorch .* sees no GPU here"):
        _ = load(["run.device=cuda:1"]).device


def test_the_command_line_ends_in_a_sentence_not_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    assert main(["vae", "--config", "missing.yaml"]) == 2
    assert "missing.yaml is no file" in caplog.text


def test_the_learning_rate_rises_stays_and_falls_to_zero() -> None:
    rates = [rate_factor(step, steps=10, warmup=2, decay=4) for step in range(10)]
    assert rates[:6] == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert all(earlier > later > 0 for earlier, later in zip(rates[5:], rates[6:], strict=False))
    assert rates[-1] < 0.1
