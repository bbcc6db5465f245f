"""The evaluate_tiny stage looks at the videos that the nodes and the evaluate stage make, in whatever precision."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfpp_core.tiny.family import load_family_text_encoder, load_student, load_vae, weights_path
from tests.helpers.small_evaluation import write_files
from training.config import ConfigError, RunConfig
from training.data.scenes import FIRST_HELD_OUT, prompt_for, sample_scene
from training.engine.metrics import contact_sheet, to_bytes
from training.models.sampling import decode, encode_prompts, sample_student
from training.stages.evaluate_tiny import EvaluateTinyStageConfig, run

PRECISIONS = ("bfloat16", "float32")


def config_of(folder: Path, precision: str) -> EvaluateTinyStageConfig:
    """One prompt, 32x32 pixels, a second and a half; the shipped networks but for the reader."""
    return EvaluateTinyStageConfig(
        run=RunConfig(out=str(folder / precision), device="cpu"),
        precision=precision,
        reader=str(folder / "reader.safetensors"),
        prompts=1,
        student_prompts=1,
        size=32,
        teacher_frames=6,
        student_seconds=1.5,
        sample_steps=1,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stage run in every precision."""
    folder = write_files(tmp_path_factory.mktemp("evaluate_tiny"))
    for precision in PRECISIONS:
        assert run(config_of(folder, precision))
    return folder


def sheet_of_student(config: EvaluateTinyStageConfig, dtype: torch.dtype) -> np.ndarray:
    """Its contact sheet, were the student called and remembering in `dtype`."""
    network, rollout = load_student()
    prompt = prompt_for(sample_scene(config.seed, FIRST_HELD_OUT))
    with torch.no_grad(), config.autocast():
        text = encode_prompts(load_family_text_encoder(), [prompt])
        latents = sample_student(
            network, text, config=rollout, seed=config.seed, frames=7, size=config.latent_size, dtype=dtype
        )
        sheet = contact_sheet(decode(load_vae(), latents), columns=12)
    return to_bytes(sheet).permute(1, 2, 0).numpy()


def test_the_student_remembers_in_the_precision_that_it_computes_in(folder: Path) -> None:
    config = config_of(folder, "bfloat16")
    with Image.open(folder / "bfloat16" / "student.png") as picture:
        shown = np.asarray(picture)
    assert np.array_equal(shown, sheet_of_student(config, torch.bfloat16))
    assert not np.array_equal(shown, sheet_of_student(config, torch.float32))


def test_what_the_autoencoder_loses_is_the_same_in_every_precision(folder: Path) -> None:
    """Its weights are float32 and so are its pictures, whatever the networks compute in."""
    half, full = (json.loads((folder / precision / "report.json").read_text())["vae"] for precision in PRECISIONS)
    assert (half["psnr"], half["luminance"]) == (full["psnr"], full["luminance"])


@pytest.mark.parametrize("key", ["reader", "vae", "text_encoder", "teacher", "student"])
@pytest.mark.parametrize("holds", [None, b"no weights", "another part of the family"])
def test_a_file_that_is_none_of_its_kind_is_refused_before_a_folder_is_made(
    key: str, holds: str | bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "some.safetensors"
    if isinstance(holds, bytes):
        path.write_bytes(holds)
    elif holds:
        shutil.copyfile(weights_path("teacher" if key == "vae" else "vae"), path)
    reader = str(write_files(tmp_path) / "reader.safetensors")
    config = replace(config_of(tmp_path, "float32"), **{"reader": reader, key: str(path)})
    with pytest.raises(ConfigError, match=rf"{key}:? .*some\.safetensors"):
        run(config)
    assert not (tmp_path / "float32").exists()
