"""The video files that a list of files and folders stands for."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

VIDEO_SUFFIXES: Final = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".gif")


def find_videos(paths: Iterable[Path]) -> list[Path]:
    """Every file that is named, of whatever kind and there or not, and all videos in the folders, however deep.

    Each once. Names that begin with a dot are left out of folders: videos that are being written have such names.

    Raises:
        ValueError: a folder has no video in it.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        for video in _in_folder(path) if path.is_dir() else [path]:
            found.setdefault(video.resolve(), video)
    return list(found.values())


def _in_folder(folder: Path) -> list[Path]:
    videos = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in VIDEO_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not videos:
        raise ValueError(f"{folder} has no videos in it (files that end in {', '.join(VIDEO_SUFFIXES)}).")
    return videos


def names_in(folder: Path) -> dict[str, Path]:
    """The videos of a folder by their path in it without the ending; a file counts as a folder with only it.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there are no videos in it, or two have one name.
    """
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist; name a folder with videos.")
    names: dict[str, Path] = {}
    for video in find_videos([folder]):
        name = (video.relative_to(folder) if folder.is_dir() else Path(video.name)).with_suffix("").as_posix()
        if name in names:
            raise ValueError(f"{names[name]} and {video} have the same name but for the ending; keep one of them.")
        names[name] = video
    return names


def mirrored(videos: Sequence[Path], folder: Path, suffix: str) -> dict[Path, Path]:
    """A path in `folder` for each video: as deep as the video is below what all videos have in common."""
    common = os.path.commonpath([video.absolute().parent for video in videos])
    return {video: folder / f"{video.absolute().relative_to(common)}{suffix}" for video in videos}


class PromptFileError(ValueError):
    """A text with prompts that cannot be used; says what is wrong with it and what to do."""


def sidecar_prompt(video: Path) -> str:
    """The text beside a video, in a `.txt` file of the same name; empty without one.

    The workflow inside a video is not searched for a prompt: a graph may hold several, and a wrong guess would change
    ratings without anybody noticing.

    Raises:
        PromptFileError: the file is no text.
    """
    path = video.with_suffix(".txt")
    return _text(path).strip() if path.is_file() else ""


def listed_prompts(path: Path, videos: Iterable[Path]) -> dict[Path, str]:
    """The prompt of each video from a list with `path` and `prompt`: CSV with these columns, or one JSON object a line.

    `path` is a video's path as it was asked for, its file name, or its name without the ending, sought in this order.
    What the command line writes with `--jsonl` is such a list.

    Raises:
        PromptFileError: it is no such list, contradicts itself, or lacks a video.
        OSError: it cannot be read.
    """
    prompts: dict[str, str] = {}
    for where, entry in _csv_entries(path) if path.suffix.lower() == ".csv" else _jsonl_entries(path):
        if not isinstance(entry, Mapping) or not all(isinstance(entry.get(key), str) for key in ("path", "prompt")):
            raise PromptFileError(f'{where} has no text under "path" and "prompt"; each line needs both.')
        if prompts.setdefault(entry["path"], entry["prompt"]) != entry["prompt"]:
            raise PromptFileError(f"{where} gives {entry['path']} another prompt than a line above; keep one.")
    found, missing = {}, []
    for video in videos:
        name = next((name for name in (str(video), video.name, video.stem) if name in prompts), None)
        if name is None:
            missing.append(video)
        else:
            found[video] = prompts[name]
    if missing:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise PromptFileError(
            f"{path} has no prompt for {missing[0]}{more}; add a line for each, the prompt empty if nobody knows it."
        )
    return found


def _csv_entries(path: Path) -> Iterator[tuple[str, object]]:
    rows = csv.DictReader(io.StringIO(_text(path), newline=""))
    for row in rows:
        yield f"{path} line {rows.line_num}", row


def _jsonl_entries(path: Path) -> Iterator[tuple[str, object]]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError as error:
                raise PromptFileError(f"{path} line {number} is no JSON ({error.msg}); mend or remove it.") from error
            yield f"{path} line {number}", entry


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptFileError(f"{path} is no text in UTF-8; save it as such.") from error
