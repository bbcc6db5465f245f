"""The files that a run begins with are known again, whatever their size."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.engine.run_folder import STRIDE, WHOLE_UP_TO, file_fingerprint, named_files


def test_files_are_found_wherever_a_configuration_names_them(tmp_path: Path) -> None:
    for name in ("teacher", "prompts", "first"):
        (tmp_path / name).write_text(name)
    config = {
        "teacher": str(tmp_path / "teacher"),
        "conditioning": {
            "prompts": str(tmp_path / "prompts"),
            "embeddings": str(tmp_path),
            "negative_prompt": "é" * 999,
        },
        "data": [{"folder": str(tmp_path)}, {"file": str(tmp_path / "first"), "clips": 3}],
        "vae": str(tmp_path / "missing"),
        "init": None,
        "steps": 3,
    }
    found = named_files(config)
    assert {key: path.name for key, path in found.items()} == {
        "teacher": "teacher",
        "conditioning.prompts": "prompts",
        "data.1.file": "first",
    }
    assert len({file_fingerprint(path) for path in found.values()}) == 3


@pytest.mark.parametrize("start", [0, WHOLE_UP_TO // 2 + 12345])
def test_one_matrix_of_a_large_checkpoint_does_not_change_unseen(tmp_path: Path, start: int) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(WHOLE_UP_TO + 5)
    before = file_fingerprint(path)
    assert file_fingerprint(path) == before
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\x01" * 4 * STRIDE)
    assert path.stat().st_size == WHOLE_UP_TO + 5
    assert file_fingerprint(path) != before
    with path.open("wb") as file:
        file.truncate(WHOLE_UP_TO + 6)
    assert file_fingerprint(path) != before, "of another size"


def test_every_byte_of_a_small_file_counts(tmp_path: Path) -> None:
    path, content = tmp_path / "small", bytearray(3 * STRIDE)
    path.write_bytes(content)
    before = file_fingerprint(path)
    content[STRIDE + 5000] = 1
    path.write_bytes(content)
    assert file_fingerprint(path) != before
