"""Parity with the public Self-Forcing code, through the entry point that acceptance uses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.golden import main

RECORDINGS = sorted((Path(__file__).parents[1] / "data" / "golden").glob("*.safetensors"))


def test_every_recording_is_matched(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(path) for path in RECORDINGS]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rsplit(" ", 1)[0] for line in lines] == [str(path) for path in RECORDINGS]
    assert len(lines) == 3
    assert all(float(line.rsplit(" ", 1)[1]) < 1e-5 for line in lines)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_a_wrong_weight_is_noticed(path: Path, tmp_path: Path) -> None:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["model.blocks.0.self_attn.k.weight"] = tensors["model.blocks.0.self_attn.q.weight"].clone()
    save_file(tensors, tmp_path / "wrong.safetensors", metadata=metadata)
    assert main([str(tmp_path / "wrong.safetensors")]) == 1


def test_other_files_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "plain.safetensors")
    assert main([str(tmp_path / "plain.safetensors")]) == 2
    assert "no `golden` entry" in caplog.text
