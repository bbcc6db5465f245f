"""A command of every stage at its smallest, on networks of random weights, and what it needs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from sfpp_core.tiny.family import weights_path
from sfpp_core.wan.config import WanConfig
from tests.helpers.models import random_transformer
from tests.helpers.processes import PORT, free_port, run_together
from tests.helpers.vae_models import random_vae
from training.__main__ import main
from training.data.clips import clip_shard, clip_shards
from training.data.scenes import prompt_for, sample_scene
from training.models.export import StudentConfig, write_student, write_weights
from training.reader import AttributeReader
from training.stages import causal_init, grpo, reader, vae

CONFIGS = Path(__file__).parents[2] / "training" / "configs" / "tiny"
MODEL = WanConfig(dim=128, ffn_dim=64, num_heads=1, num_layers=1, text_dim=4096, freq_dim=32)
HERE = "HERE"
"""In a word of a command: the folder of all files and runs."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command at its smallest."""

    stage: str
    words: tuple[str, ...]
    config: str | None = None
    """Its configuration, by default the one that is called like the stage."""
    needs: tuple[str, ...] = ()
    """Cases whose runs by one process it reads, in HERE/one."""

    def command(self, out: Path, *more: str) -> list[str]:
        """The arguments of a run into a folder in a folder of HERE."""
        config = f"--config={CONFIGS / (self.config or self.stage)}.yaml"
        words = (self.stage, config, *self.words, "precision=float32", "run.device=cpu", f"run.out={out}", *more)
        return [word.replace(HERE, str(out.parents[1])) for word in words]


VAE, TEACHER = f"vae={HERE}/vae.safetensors", f"teacher={HERE}/teacher.safetensors"
TEXT_ENCODER = f"text_encoder={weights_path('text_encoder')}"
PROMPT_FILE = (f"conditioning.prompts={HERE}/prompts.txt", "conditioning.text_encoder=null")
SIZE = ("width=32", "height=32")
STEPS = ("student.window=6", "student.steps=[1000,500]")
CLIPS = f"data=[{{folder: {HERE}/clips, clips: 4}}]"

MADE = {
    "latents": Case(stage="latents", words=(VAE, "clips=4", "shard=2", "batch=1", "frames=2", "size=32")),
    "embeddings": Case(stage="embeddings", words=(*PROMPT_FILE, "shard=1")),
    "ode_pairs": Case(
        stage="ode_pairs",
        words=(TEACHER, *PROMPT_FILE, *SIZE, *STEPS, "frames=6", "steps=4", "trajectories=4", "shard=2", "batch=2"),
    ),
}
"""Stages that make files of data, of which each process makes some."""

TRAINS = ("steps=2", "optimizer.lr=5e-6", "optimizer.warmup=0", "optimizer.decay=0", "optimizer.clip=1e9")
TRAINS += ("optimizer.muon_precision=float32", "run.workers=0", "run.log_every=1")
START = (*TRAINS, *STEPS, "student.first_chunk_steps=[]", TEACHER, VAE, "batch=2", "frames=6")
OWN_VIDEOS = (*TRAINS, *PROMPT_FILE, *SIZE, *STEPS, f"init={HERE}/student.safetensors", VAE)
JUDGED = (*OWN_VIDEOS, TEACHER, "batch=4", "watch_frames=6", "critic.updates=1", "critic.warmup_updates=1")
JUDGED += ("critic.optimizer.lr=5e-6", "critic.optimizer.warmup=0", "critic.optimizer.clip=1e9")
# With these the second step's window is from mid-video, if rollouts are that long.
JUDGED += ("seed=17", "window.first_window_probability=0")
# The ways of training are all written out: no case is to change with the configuration that comes along.
FRESH = ("critic.windows=fresh", "critic.learns_first=false")
LEARNS_FIRST, LEARNS_LATER = (("critic.windows=shared", f"critic.learns_first={first}") for first in ("true", "false"))
ONE_CHUNK = ("window.frames=3", "window.masked_frames=2", "reading=chain")
FROM_SCRATCH = (*ONE_CHUNK, "window.rollout_frames=12", "window.ramp_updates=1", "history=restart")
TWO_CHUNKS = ("window.frames=6", "window.rollout_frames=12", "window.masked_frames=1", "window.ramp_updates=1")

TRAINED = {
    "vae": Case(stage="vae", words=(*TRAINS, "phases=[{start: 0, batch: 2, frames: 5, crop: 16}]", "dim=4", "size=32")),
    "reader": Case(stage="reader", words=(*TRAINS, "batch=2", "size=32")),
    "teacher": Case(
        stage="teacher",
        words=(
            *(*TRAINS, VAE, "model={dim: 128, ffn_dim: 64, num_layers: 2}", "sample_steps=1"),
            f"phases=[{{start: 0, data: [{{folder: {HERE}/clips, clips: 4}}], batch: 4, frames: 3}}]",
        ),
    ),
    "causal_init by flow": Case(stage="causal_init", words=(*START, CLIPS, TEXT_ENCODER)),
    "causal_init by consistency": Case(
        stage="causal_init",
        config="causal_init_consistency",
        words=(*START, CLIPS, TEXT_ENCODER, "consistency.steps=4"),
    ),
    "causal_init by ode": Case(
        stage="causal_init",
        config="causal_init_ode",
        words=(*START, *PROMPT_FILE, f"trajectories={HERE}/one/ode_pairs"),
        needs=("ode_pairs",),
    ),
    "self_forcing": Case(
        stage="self_forcing",
        words=(
            *(*JUDGED, *ONE_CHUNK, "window.rollout_frames=3", "history=restart"),
            *("gradient_step=random", *LEARNS_LATER),
        ),
    ),
    "sfpp from scratch": Case(stage="sfpp", words=(*JUDGED, *FROM_SCRATCH, "gradient_step=last", *LEARNS_FIRST)),
    "sfpp by all steps": Case(stage="sfpp", words=(*JUDGED, *FROM_SCRATCH, "gradient_step=all", *LEARNS_LATER)),
    "sfpp streaming": Case(
        stage="sfpp",
        words=(*JUDGED, *TWO_CHUNKS, "history=streaming", "reading=renoised", "gradient_step=last", *FRESH),
    ),
    "grpo": Case(
        stage="grpo",
        words=(
            *(*OWN_VIDEOS, "accumulate=1", "groups=2", "group_size=2", "frames=3", "starting_films=1"),
            # One transition a video.
            "policy.transitions=0.5",
        ),
    ),
}
"""Stages that take optimiser steps."""

JUDGE = f"reader={HERE}/reader.safetensors"
ARMS = f"arms=[{{name: student, weights: {HERE}/student.safetensors}}]"
FINISHED = {
    **MADE,
    "export": Case(stage="export", words=(f"source={HERE}/one/causal_init by ode",), needs=("causal_init by ode",)),
    "evaluate": Case(
        stage="evaluate",
        words=(
            *(JUDGE, VAE, ARMS, "baselines=[student]", *PROMPT_FILE[:1], "prompts=2", "takes=1", "batch=1"),
            *("lengths=[5]", "height=16", "width=16", "truth_scenes=1", "prompts_kept=0"),
        ),
    ),
    "evaluate_tiny": Case(
        stage="evaluate_tiny",
        words=(
            *(JUDGE, VAE, "prompts=2", "student_prompts=1", "batch=1", "size=32"),
            *("teacher_frames=6", "sample_steps=1", "student_seconds=1.5"),
        ),
    ),
}
"""Stages that take none: nothing is summed over processes."""
GOING_ON = {
    "teacher": TRAINED["teacher"],
    "sfpp by the chunk": Case(
        stage="sfpp",
        words=(
            *(*JUDGED, "history=streaming", "reading=chain", "gradient_step=last", *FRESH),
            *("window.frames=9", "window.rollout_frames=21", "window.masked_frames=2", "window.ramp_updates=1"),
        ),
    ),
}
"""Runs to be stopped: with Muon, and with two networks and videos that go on, two chunks a window."""
CASES = FINISHED | TRAINED | GOING_ON


def write_files(folder: Path) -> None:
    """The networks, clips and prompts that the commands start from."""
    torch.manual_seed(0)
    judge = AttributeReader()
    write_weights(folder / "reader.safetensors", judge.state_dict(), judge.header())
    write_weights(folder / "vae.safetensors", random_vae(dim=4).state_dict(), {"kind": "vae", "dim": 4})
    teacher = {"kind": "teacher", "model": asdict(MODEL)}
    write_weights(folder / "teacher.safetensors", random_transformer(MODEL, seed=2).state_dict(), teacher)
    student = StudentConfig(window=6, steps=[1000.0, 500.0])
    write_student(folder / "student.safetensors", random_transformer(MODEL, seed=1), student, {}, dtype=torch.float32)
    prompts = [prompt_for(sample_scene(6, index)) for index in range(4)]
    (folder / "prompts.txt").write_text("\n".join(prompts), encoding="utf-8")
    clips = torch.randn(4, 16, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    (folder / "clips").mkdir()
    clip_shards(folder / "clips").write(0, clip_shard(clips, [[prompt] for prompt in prompts]), total=1)


def run_commands(commands: Mapping[str, Sequence[str]]) -> None:
    """Run commands, by a free port each, one after the other; they look at less of what they have made than usual."""
    vae.NORMALISING_SCENES = vae.WATCHED_SCENES = reader.WATCHED_SCENES = grpo.WATCHED_VIDEOS = 1
    causal_init.WATCHED_FRAMES, vae.HELD_OUT_FRAMES = 6, 5
    for port, command in commands.items():
        os.environ[PORT] = port
        assert main(list(command)) == 0


def run_all(*commands: Sequence[str], count: int) -> None:
    """Run commands, one after the other, in `count` processes that stay: to form a run takes them seconds at first."""
    run_together(run_commands, {free_port(): command for command in commands}, count=count)
