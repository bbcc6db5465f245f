"""The evaluate_tiny stage looks at the films that the nodes and the evaluate stage make, in whatever precision."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfpp_core.tiny.family import load_family_text_encoder, load_student, load_vae
from tests.training.small_evaluation import write_files
from training.board import contact_sheet, to_bytes
from training.config import RunConfig
from training.sampling import decode, encode_prompts, sample_student
from training.scenes import prompt_for, sample_scene
from training.stages.evaluate_tiny import Config, run
from training.stages.vae import FIRST_HELD_OUT

PRECISIONS = ("bfloat16", "float32")


def config_of(folder: Path, precision: str) -> Config:
    """One prompt, 32x32 pixels, a second and a half; the shipped networks but for the reader."""
    return Config(
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


def sheet_of_student(config: Config, dtype: torch.dtype) -> np.ndarray:
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
