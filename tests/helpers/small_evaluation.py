"""An evaluation at its smallest: two prompts, videos of 16x16 pixels, a reader that has learnt nothing."""

from __future__ import annotations

from pathlib import Path

import torch

from training.config import RunConfig
from training.data.prompt_embeds import ConditioningConfig
from training.data.scenes import prompt_for, sample_scene
from training.evaluation.rollouts import ArmConfig, SamplerConfig
from training.models.export import write_weights
from training.reader import AttributeReader
from training.stages.evaluate import EvaluateStageConfig

ARMS = [
    ArmConfig(name="truth", kind="truth"),
    ArmConfig(name="student"),
    ArmConfig(name="restarted", overlap=3),
    ArmConfig(name="teacher", kind="teacher"),
]


def write_files(folder: Path) -> Path:
    """Prompts, and a reader that has learnt nothing; returns the folder."""
    prompts = [prompt_for(sample_scene(6, index)) for index in range(2)]
    (folder / "prompts.txt").write_text("\n".join(prompts), encoding="utf-8")
    torch.manual_seed(0)
    reader = AttributeReader()
    write_weights(folder / "reader.safetensors", reader.state_dict(), reader.header())
    return folder


def config(files: Path, out: Path, **changes: object) -> EvaluateStageConfig:
    """Two prompts of 16x16 pixels, 5 and 6 seconds. files: what `write_files` wrote."""
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
    return EvaluateStageConfig(**settings | changes)
