"""Which files are rated, and which prompt belongs to each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sfpp_core.stability.batch.inputs import (
    PromptFileError,
    find_videos,
    listed_prompts,
    mirrored,
    names_in,
    sidecar_prompt,
)


def touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def test_folders_give_their_videos_and_files_are_taken_as_they_are(tmp_path: Path) -> None:
    a, b, c, _, _, odd = touch(
        tmp_path, "f/a.mp4", "f/b/c/b.WEBM", "f/z.mov", "f/notes.txt", "f/.a.1234.tmp.mp4", "video.odd"
    )
    touch(tmp_path / "f" / ".cache", "hidden.mp4")
    missing = tmp_path / "missing.mp4"
    assert find_videos([tmp_path / "f", odd, a, missing]) == [a, b, c, odd, missing]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty has no videos in it"):
        find_videos([tmp_path / "empty"])


def test_videos_of_a_folder_have_names_to_be_paired_by(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "sub/a.mp4")
    assert names_in(tmp_path) == {"a": tmp_path / "a.mp4", "sub/a": tmp_path / "sub" / "a.mp4"}
    assert names_in(tmp_path / "a.mp4") == {"a": tmp_path / "a.mp4"}
    touch(tmp_path, "a.webm")
    with pytest.raises(ValueError, match=r"a\.mp4 and .*a\.webm have the same name"):
        names_in(tmp_path)


def test_each_video_has_a_plot_of_its_own(tmp_path: Path) -> None:
    videos = touch(tmp_path, "x/a.mp4", "x/a.mov", "y/a.mp4")
    plots = mirrored(videos, Path("plots"), ".png")
    assert [path.as_posix() for path in plots.values()] == [
        "plots/x/a.mp4.png",
        "plots/x/a.mov.png",
        "plots/y/a.mp4.png",
    ]
    assert mirrored(videos[:1], Path("plots"), ".png") == {videos[0]: Path("plots/a.mp4.png")}


def test_a_prompt_lies_beside_its_video(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeffA foggy morning.\r\n", encoding="utf-8")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    assert sidecar_prompt(tmp_path / "a.mp4") == "A foggy morning."
    assert sidecar_prompt(tmp_path / "none.mp4") == ""
    with pytest.raises(PromptFileError, match="b.txt is no text in UTF-8"):
        sidecar_prompt(tmp_path / "b.mp4")


VIDEOS = [Path("x/a.mp4"), Path("x/b.mp4"), Path("y/c.mp4")]
PROMPTS = {"x/a.mp4": 'Fog, "dense".', "b.mp4": "", "c": "Night\u2028fall."}


def test_lists_of_prompts_name_videos_by_path_name_or_stem(tmp_path: Path) -> None:
    lines, table = tmp_path / "prompts.jsonl", tmp_path / "prompts.csv"
    rows = [json.dumps({"path": path, "prompt": prompt}, ensure_ascii=False) for path, prompt in PROMPTS.items()]
    lines.write_text("\n\n".join(rows), encoding="utf-8")
    table.write_text(
        'prompt,path\n"Fog, ""dense"".",x/a.mp4\n,b.mp4\nNight\u2028fall.,c\n', encoding="utf-8-sig", newline=""
    )
    expected = dict(zip(VIDEOS, PROMPTS.values(), strict=True))
    assert listed_prompts(lines, VIDEOS) == listed_prompts(table, VIDEOS) == expected


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("p.jsonl", '{"path": "a", "prompt": ""}\n', r"p.jsonl has no prompt for x/b.mp4 and 1 more; add a line"),
        ("p.jsonl", '{"path": "a"}\n', 'p.jsonl line 1 has no text under "path" and "prompt"'),
        ("p.jsonl", '\n["a"]\n', "p.jsonl line 2 has no text"),
        ("p.jsonl", "a: fog\n", "p.jsonl line 1 is no JSON"),
        ("p.csv", "file,prompt\na,fog\n", "p.csv line 2 has no text"),
        ("p.csv", "path,prompt\na\n", "p.csv line 2 has no text"),
        ("p.csv", "path,prompt\na,fog\na,sun\n", "p.csv line 3 gives a another prompt than a line above"),
    ],
)
def test_a_list_that_leaves_a_doubt_is_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(PromptFileError, match=words):
        listed_prompts(tmp_path / name, VIDEOS)
