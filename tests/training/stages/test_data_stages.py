"""Stages that make files of data: a mistake in the first command costs nothing but the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.stage_cases import HERE, MADE, write_files
from training.__main__ import main
from training.data.scenes import describe, sample_scene
from training.stages.latents import WORDING_STEP


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the files that the commands start from."""
    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    return folder


@pytest.mark.parametrize(
    ("stage", "wrong", "sentence"),
    [
        ("latents", f"vae={HERE}/missing.safetensors", "missing.safetensors: found no such file; a Wan 2.1 VAE"),
        ("latents", f"vae={HERE}/teacher.safetensors", "this is not a Wan 2.1 VAE"),
        ("embeddings", f"conditioning.prompts={HERE}/missing.txt", "missing.txt is no file"),
        ("embeddings", f"conditioning.text_encoder={HERE}/vae.safetensors", "vae.safetensors cannot be used"),
        ("ode_pairs", f"teacher={HERE}/missing.safetensors", "missing.safetensors: found no such file"),
        ("ode_pairs", f"conditioning.prompts={HERE}/missing.txt", "missing.txt is no file"),
    ],
)
def test_a_refused_start_claims_no_folder_so_that_the_corrected_command_runs(
    here: Path, stage: str, wrong: str, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    out = here / "runs" / f"{stage} {wrong.partition('=')[0]} {Path(wrong).stem}"
    assert main(MADE[stage].command(out, wrong)) == 2
    assert sentence in caplog.records[-1].getMessage()
    assert not out.exists()
    assert main(MADE[stage].command(out)) == 0
    assert list(out.glob("*-00001.safetensors"))


def test_no_wording_of_a_clip_comes_again_before_all_have_come() -> None:
    scene = sample_scene(1, 5)
    sentences = {describe(scene.attributes, wording) for wording in range(1000)}
    prompts = [describe(scene.attributes, scene.wording + index * WORDING_STEP) for index in range(len(sentences))]
    assert len(sentences) > 4 and set(prompts) == sentences
