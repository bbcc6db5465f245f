"""Stages that are given a file of another kind, for other texts, or none, say so before they take their folder."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from sfpp_core.tiny.family import weights_path
from tests.helpers.models import random_transformer
from tests.helpers.stage_cases import CASES, HERE, MODEL, write_files
from training.__main__ import main
from training.models.export import write_weights

WORDLESS = replace(MODEL, text_dim=32)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the files that the commands start from, with networks for other texts, and those that do not tell
    what they are.
    """
    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    for kind in ("student", "teacher"):
        header = {"kind": kind, "model": asdict(WORDLESS)}
        write_weights(folder / f"{kind}_of_32.safetensors", random_transformer(WORDLESS, seed=3).state_dict(), header)
        save_file(load_file(folder / f"{kind}.safetensors"), folder / f"untold_{kind}.safetensors")
    shipped = weights_path("text_encoder")
    for file in (folder / "vae.safetensors", shipped):
        (folder / f"half_a_{file.name}").write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    beginnings = {
        "of_a_student": (folder / "student.safetensors", shipped),
        "for_other_texts": (folder / "teacher_of_32.safetensors", shipped),
        "with_a_vae": (folder / "teacher.safetensors", folder / "vae.safetensors"),
        "with_a_half": (folder / "teacher.safetensors", folder / "half_a_text_encoder.safetensors"),
    }
    for name, parts in beginnings.items():
        (folder / name).mkdir()
        for part, file in zip(("teacher", "text_encoder"), parts, strict=True):
            shutil.copyfile(file, folder / name / f"{part}.safetensors")
    return folder


KINDS = [
    *((case, "init", "teacher", "student") for case in ("self_forcing", "sfpp streaming", "grpo")),
    *((case, "teacher", "student", "teacher") for case in ("self_forcing", "sfpp streaming", "ode_pairs")),
]
WIDTHS = [
    *(("self_forcing", "init", "student"), ("self_forcing", "teacher", "teacher")),
    *(("self_forcing", "critic.init", "teacher"), ("grpo", "init", "student"), ("ode_pairs", "teacher", "teacher")),
    *(("causal_init by flow", "teacher", "teacher"), ("causal_init by consistency", "teacher", "student")),
]
NOWHERE, TEACHER = f"{HERE}/nowhere.safetensors", f"{HERE}/teacher.safetensors"
NO_FILE, NO_VAE = "found no such file; a Wan 2.1 VAE is needed", "this is not a Wan 2.1 VAE"
NO_TEXTS = "text_encoder.safetensors cannot be used"
AUTOENCODERS = [
    *((case, f"vae={NOWHERE}", f"vae: {NOWHERE}: {NO_FILE}") for case in ("teacher", "causal_init by flow")),
    *((case, f"vae={TEACHER}", f"vae: {TEACHER}: {NO_VAE}") for case in ("teacher", "causal_init by consistency")),
    ("vae", f"init={NOWHERE}", f"init: {NOWHERE}: {NO_FILE}"),
    ("vae", f"init={TEACHER}", f"init: {TEACHER}: {NO_VAE}"),
    ("vae", f"init={HERE}/half_a_vae.safetensors", f"init: {HERE}/half_a_vae.safetensors: found a truncated"),
]
BEGINNINGS = [
    ("nowhere", f"the text encoder {HERE}/nowhere/{NO_TEXTS}"),
    ("with_a_vae", f"the text encoder {HERE}/with_a_vae/{NO_TEXTS}"),
    ("with_a_half", f"the text encoder {HERE}/with_a_half/{NO_TEXTS}"),
    ("of_a_student", f"init: {HERE}/of_a_student/teacher.safetensors holds a student"),
    ("for_other_texts", f"init: {HERE}/for_other_texts/teacher.safetensors reads embeddings 32 wide"),
]
"""Folders that a teacher cannot begin with."""


def refusal(here: Path, case: str, *words: str, caplog: pytest.LogCaptureFixture) -> str:
    """What a command says to words, and that it makes no folder."""
    out = here / "refused" / "out"
    assert main(CASES[case].command(out, *words)) == 2
    assert not out.exists()
    return caplog.records[-1].getMessage()


@pytest.mark.parametrize(("case", "key", "found", "needed"), KINDS)
def test_a_network_of_the_other_kind_is_refused(
    here: Path, case: str, key: str, found: str, needed: str, caplog: pytest.LogCaptureFixture
) -> None:
    said = refusal(here, case, f"{key}={HERE}/{found}.safetensors", caplog=caplog)
    assert f"{key}: {here}/{found}.safetensors holds a {found}, as its header says, where a {needed} is needed" in said


@pytest.mark.parametrize(("case", "key", "kind"), WIDTHS)
def test_a_network_for_other_texts_is_refused(
    here: Path, case: str, key: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    said = refusal(here, case, f"{key}={HERE}/{kind}_of_32.safetensors", caplog=caplog)
    assert "reads embeddings 32 wide, but those of conditioning are 4096 wide" in said and said.startswith(f"{key}: ")


@pytest.mark.parametrize(("case", "word", "sentence"), AUTOENCODERS)
def test_what_is_no_autoencoder_is_refused(
    here: Path, case: str, word: str, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert sentence.replace(HERE, str(here)) in refusal(here, case, word, caplog=caplog)


@pytest.mark.parametrize(("folder", "sentence"), BEGINNINGS)
def test_a_folder_that_no_teacher_can_begin_with_is_refused(
    here: Path, folder: str, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    said = refusal(here, "teacher", "model=null", f"init={HERE}/{folder}", caplog=caplog)
    assert sentence.replace(HERE, str(here)) in said


def test_half_a_text_encoder_is_refused(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = "half_a_text_encoder.safetensors"
    said = refusal(here, "causal_init by flow", f"text_encoder={HERE}/{file}", caplog=caplog)
    assert f"the text encoder {here}/{file} cannot be used" in said


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("self_forcing", (f"init={HERE}/untold_student.safetensors", f"teacher={HERE}/untold_teacher.safetensors")),
        ("self_forcing", (f"critic.init={HERE}/student.safetensors",)),
        ("ode_pairs", (f"teacher={HERE}/untold_teacher.safetensors",)),
        ("causal_init by consistency", (f"teacher={HERE}/student.safetensors",)),
    ],
)
def test_files_of_others_are_taken_at_their_word_and_either_kind_where_either_will_do(
    here: Path, tmp_path: Path, case: str, words: tuple[str, ...]
) -> None:
    out = here / "accepted" / tmp_path.name
    assert main(CASES[case].command(out, *words, "run.watch_every=100")) == 0
