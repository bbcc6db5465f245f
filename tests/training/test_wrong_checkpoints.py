"""Stages that are given a transformer of another kind, or for other texts, say so before they take their folder."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.core.models import random_transformer
from training.__main__ import main
from training.export import write_weights

from .stage_cases import CASES, HERE, MODEL, write_files

WORDLESS = replace(MODEL, text_dim=32)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the files that the commands start from, with networks for other texts, and those that do not tell
    what they are."""
    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    for kind in ("student", "teacher"):
        header = {"kind": kind, "model": asdict(WORDLESS)}
        write_weights(folder / f"{kind}_of_32.safetensors", random_transformer(WORDLESS, seed=3).state_dict(), header)
        save_file(load_file(folder / f"{kind}.safetensors"), folder / f"untold_{kind}.safetensors")
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


def refusal(here: Path, case: str, word: str, caplog: pytest.LogCaptureFixture) -> str:
    """What a command says to a word, and that it makes no folder."""
    out = here / "refused" / "out"
    assert main(CASES[case].command(out, word)) == 2
    assert not out.exists()
    return caplog.records[-1].getMessage()


@pytest.mark.parametrize(("case", "key", "found", "needed"), KINDS)
def test_a_network_of_the_other_kind_is_refused(
    here: Path, case: str, key: str, found: str, needed: str, caplog: pytest.LogCaptureFixture
) -> None:
    said = refusal(here, case, f"{key}={HERE}/{found}.safetensors", caplog)
    assert f"{key}: {here}/{found}.safetensors holds a {found}, as its header says, where a {needed} is needed" in said


@pytest.mark.parametrize(("case", "key", "kind"), WIDTHS)
def test_a_network_for_other_texts_is_refused(
    here: Path, case: str, key: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    said = refusal(here, case, f"{key}={HERE}/{kind}_of_32.safetensors", caplog)
    assert "reads embeddings 32 wide, but those of conditioning are 4096 wide" in said and said.startswith(f"{key}: ")


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
