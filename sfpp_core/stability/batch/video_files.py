"""The video files that a list of files and folders stands for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

VIDEO_SUFFIXES: Final = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".gif")


def find_videos(paths: Iterable[Path]) -> list[Path]:
    """Every file that is named, of whatever kind and there or not, and all videos in the folders, however deep.

    Each once. Names that begin with a dot are left out of folders: films that are being written have such names.

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
