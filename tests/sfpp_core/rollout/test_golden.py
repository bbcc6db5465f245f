"""Parity with the public Self-Forcing code, through the entry point that acceptance uses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.golden import main

RECORDINGS = sorted((Path(__file__).parents[2] / "data" / "golden").glob("*.safetensors"))


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


def changed(path: Path, target: Path, name: str, tensor: torch.Tensor | None) -> Path:
    """The recording with another tensor of this name, or without."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = {key: value for key, value in (load_file(path) | {name: tensor}).items() if value is not None}
    save_file(tensors, target, metadata=metadata)
    return target


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_an_error_that_is_no_number_is_too_large(path: Path, tmp_path: Path) -> None:
    bias = torch.full_like(load_file(path)["model.head.head.bias"], torch.nan)
    broken = changed(path, tmp_path / "nan.safetensors", "model.head.head.bias", bias)
    assert main([str(broken)]) == 1
    assert main([str(broken), str(path)]) == 1


def test_a_file_that_cannot_be_used_does_not_hide_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = RECORDINGS[0]
    broken = changed(path, tmp_path / "broken.safetensors", "model.head.head.bias", None)
    assert main([str(broken), str(path)]) == 2
    assert [line.split(" ")[0] for line in capsys.readouterr().out.splitlines()] == [str(path)]
    assert "head.head.bias" in caplog.text


def test_other_files_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "plain.safetensors")
    assert main([str(tmp_path / "plain.safetensors")]) == 2
    assert "no `golden` entry" in caplog.text
