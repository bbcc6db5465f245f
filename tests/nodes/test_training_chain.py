"""The whole distillation at its smallest, from a teacher to a video that ComfyUI makes with what came out."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.helpers.smoke_family import FRAMES, SHORT, SIZE, make_teacher, run_stage, teacher_words, vae_word
from tests.nodes.graphs import Graph, Studio
from training.data.scenes import prompt_for, sample_scene

CHAIN = ("embeddings", "ode_pairs", "causal_init", "self_forcing", "sfpp", "grpo", "export", "evaluate")
SIZES = (f"width={SIZE}", f"height={SIZE}")
LONGEST = 300
"""Seconds that all stages together may take, on two cores."""


@dataclass(frozen=True, kw_only=True)
class Chain:
    """All stages, run one after the other."""

    folder: Path
    """Where each has a folder of its name."""
    seconds: float
    """Wall time of all their commands."""


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Every stage in turn, each with what the ones before have made."""
    folder, started = tmp_path_factory.mktemp("chain"), time.monotonic()
    make_teacher(folder)
    distill(folder)
    return Chain(folder=folder, seconds=time.monotonic() - started)


def distill(folder: Path) -> None:
    """Every stage after the teacher."""
    prompts = folder / "prompts.txt"
    prompts.write_text("".join(f"{prompt_for(sample_scene(3, index))}\n" for index in range(4)), encoding="utf-8")
    encoder = f"conditioning.text_encoder={folder / 'teacher' / 'text_encoder.safetensors'}"
    run_stage("embeddings", folder, f"conditioning.prompts={prompts}", encoder, "shard=2")
    texts = f"conditioning={{prompts: null, text_encoder: null, embeddings: {folder / 'embeddings'}}}"
    vae, (teacher, _) = vae_word(folder), teacher_words(folder)
    frames = f"frames={FRAMES}"
    run_stage("ode_pairs", folder, teacher, texts, frames, *SIZES, "trajectories=4", "shard=2", "batch=2", "steps=48")
    trajectories = f"trajectories={folder / 'ode_pairs'}"
    run_stage(
        "causal_init", folder, *SHORT, trajectories, texts, teacher, vae, frames, "batch=2", "steps=2",
        config="causal_init_ode",
    )  # fmt: skip
    windows = (f"window.frames={FRAMES}", "window.masked_frames=3", "window.ramp_updates=0", "batch=2", "steps=2")
    critic = ("critic.warmup_updates=1", "critic.updates=2", "critic.optimizer.warmup=0", "watch_frames=6")
    common = (*SHORT, teacher, vae, texts, *SIZES, *windows, *critic)
    init = f"init={folder / 'causal_init' / 'student.safetensors'}"
    run_stage("self_forcing", folder, *common, init, f"window.rollout_frames={FRAMES}")
    run_stage("sfpp", folder, *common, init, f"window.rollout_frames={5 * FRAMES}")
    init = f"init={folder / 'sfpp' / 'student.safetensors'}"
    few = ("groups=1", "group_size=2", "accumulate=1", "starting_films=1", "frames=6", "policy.updates=1", "steps=2")
    run_stage("grpo", folder, *SHORT, vae, texts, *SIZES, init, *few, "optimizer.decay=0")
    run_stage("export", folder, f"source={folder / 'grpo'}")
    students = [f"{{name: {name}, weights: {folder / name / 'student.safetensors'}}}" for name in ("sfpp", "export")]
    arms = f"arms=[{{name: truth, kind: truth}}, {', '.join(students)}]"
    reader = f"reader={folder / 'reader' / 'reader.safetensors'}"
    few = ("prompts=2", "takes=1", "batch=2", "lengths=[5]", "truth_scenes=2", "prompts_kept=1")
    run_stage("evaluate", folder, texts, vae, reader, arms, "baselines=[sfpp]", *few, *SIZES)


def test_every_stage_leaves_what_the_next_one_needs(chain: Chain) -> None:
    assert all((chain.folder / stage).is_dir() for stage in CHAIN)
    for stage in ("causal_init", "self_forcing", "sfpp", "grpo", "export"):
        with safe_open(chain.folder / stage / "student.safetensors", framework="pt") as file:
            header = json.loads(file.metadata()["sfpp"])
        assert header["kind"] == "student"
        assert header["training"]["stage"] == ("grpo" if stage == "export" else stage)
    report = json.loads((chain.folder / "evaluate" / "report.json").read_text())
    assert set(report["measures"]["stability"]["mean"]) == {"truth", "sfpp", "export"}


def test_all_stages_together_take_less_than_five_minutes(chain: Chain) -> None:
    assert chain.seconds < LONGEST


def test_what_the_chain_exports_makes_a_video_in_comfyui(chain: Chain, comfy) -> None:
    student = comfy.server.models_directory("diffusion_models") / "chain_student.safetensors"
    shutil.copyfile(chain.folder / "export" / "student.safetensors", student)
    graph, studio = Graph(), Studio(comfy)
    _, clip, _ = graph.tiny()
    settings = {"weight_dtype": "default", "prefer_ema": True, "preset": "auto"}
    model = [graph.add("SFPPLoadModel", model_name=student.name, **settings), 0]
    latent, _ = graph.video(model, graph.text(clip), width=SIZE, height=SIZE, seconds=1.0)
    kept = graph.keep(latent)
    video = studio.latent(studio.run(graph), kept)
    assert video.shape == (1, 16, 6, SIZE // 8, SIZE // 8)
    assert video.isfinite().all()
    student.unlink()
