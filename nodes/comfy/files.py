"""Where files come from and go to: inside ComfyUI's input and output folders, and nowhere else."""

from __future__ import annotations

import json
import os
import re
import reprlib
import time
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args

from ...sfpp_core.files import first_free

STATE_SUFFIX = ".sfpp.safetensors"
"""Ending of a saved video state, by which SFPP Load State finds it among other files."""

NOTED = "is_changed"
"""Key that ComfyUI adds to the nodes of a workflow that it runs."""

MAX_NAME_BYTES = 200
"""Of a name in a prefix. File systems take 255; number and ending, those of an unfinished file too, are added to it."""

MAX_PATH_BYTES = 3800
"""Of a whole path. Linux takes 4096, and unfinished files have longer names."""

SPOOL_FOLDER = "sfpp_spool"
"""In the output folder: finished chunks and videos that grow."""

_WINDOWS = re.compile(r'[<>:"|?*]|[. ]$|^(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)', re.IGNORECASE)
"""In a name: what no file on Windows may be called, so that a workflow that is shared works there too."""

DATES = {"year": "%Y", "month": "%m", "day": "%d", "hour": "%H", "minute": "%M", "second": "%S"}
"""ComfyUI's placeholders in a prefix, between per cent signs, as strftime knows them."""

A_NAME = "Type a name such as video/film."


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputPath:
    """A file to be written in ComfyUI's output folder."""

    path: Path
    filename: str
    subfolder: str


@contextmanager
def new_output_file(prefix: str, suffix: str, *, width: int = 0, height: int = 0) -> Iterator[OutputPath]:
    """The next free numbered file for a prefix, as ComfyUI's own save nodes name theirs.

    Its number is nobody else's until the block ends, though nothing of that name is there yet: several servers may
    share an output folder. The prefix may hold sub-folders and placeholders such as %year%. Raises ValueError as
    `check_prefix`.
    """
    prefix = filled_in(prefix)
    check_prefix(prefix.replace("%width%", str(width)).replace("%height%", str(height)))
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory(), width, height
    )
    with first_free(Path(folder, f"{name}_{number:05}_{suffix}") for number in count(counter)) as path:
        yield OutputPath(path=path, filename=path.name, subfolder=subfolder)


def filled_in(prefix: str) -> str:
    """A prefix with %date:yyyy-MM-dd% and its kin filled in, which ComfyUI's page does for stock nodes alone."""

    def part(letters: re.Match[str]) -> str:
        digits = time.strftime(_DATE_CODES[letters[0]])
        return str(int(digits)) if len(letters[0]) == 1 else digits

    return _DATE.sub(lambda found: _DATE_PART.sub(part, found[1]), prefix)


_DATE = re.compile(r"%date:([^%]*)%")
_DATE_CODES = {
    **{"yyyy": "%Y", "yy": "%y", "MM": "%m", "M": "%m", "dd": "%d", "d": "%d"},
    **{"hh": "%H", "h": "%H", "mm": "%M", "m": "%M", "ss": "%S", "s": "%S"},
}
"""What the page's date formats are made of, as strftime knows them; single letters leave zeros in front out."""
_DATE_PART = re.compile("|".join(_DATE_CODES))


def check_prefix(prefix: str) -> None:
    """Raise ValueError if no file of the output folder can be named by this prefix.

    Writes nothing, so that nodes can ask before anything is sampled: ComfyUI itself would only say so afterwards.
    """
    root = os.path.abspath(folder_paths.get_output_directory())
    prefix = filled_in(prefix)
    names = Path(os.path.normpath(prefix)).parts
    folder = os.path.dirname(os.path.join(root, os.path.normpath(_dated(prefix))))
    advice = A_NAME
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in prefix):
        reason = "which holds a character that no file name has"
    elif not Path(os.path.abspath(os.path.join(root, prefix))).is_relative_to(root):
        reason = "which is outside the output folder"
    elif not names or not names[-1].strip(" ."):
        reason = "which names no file"
    elif max(len(os.fsencode(name)) for name in names) > MAX_NAME_BYTES:
        reason = f"which holds a name of more than {MAX_NAME_BYTES} bytes"
    elif any(_WINDOWS.search(name) for name in names):
        reason = "which holds a name that Windows has no files of"
        advice = f'Leave out < > : " | ? *, dots and blanks at an end, and names such as CON. {A_NAME}'
    elif len(os.fsencode(folder)) + MAX_NAME_BYTES > MAX_PATH_BYTES:
        reason = f"which is too deep: a path has {MAX_PATH_BYTES} bytes at most"
    elif len(names) > 1 and names[0].lower() == SPOOL_FOLDER:
        reason = "the folder of kept chunks, which is cleaned"
    elif (obstacle := _nearest(folder)) and not os.path.isdir(obstacle):
        reason = f"but {os.path.relpath(obstacle, root)} is a file"
    elif not os.access(obstacle, os.W_OK | os.X_OK):
        reason = f"but nothing may be written to {obstacle}"
        advice = "Change that folder's permissions, or type the name of another one."
    elif not _may_hold_files(root, folder):
        reason = "and a link leads from there out of the output folder, where this ComfyUI saves nothing"
        advice = (
            "Type the name of a folder that is no such link, or start ComfyUI with --output-directory and the folder "
            "that the link leads to."
        )
    else:
        return
    raise ValueError(f"filename_prefix is {reprlib.repr(prefix)}, {reason}. {advice}")


def _nearest(folder: str) -> str:
    """Return the folder, or whatever is there of the way to it."""
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    return folder


def saved_states() -> dict[str, Path]:
    """Every saved video state in the input and output folders, by the name that the artist chooses it by."""
    folders = {"input": folder_paths.get_input_directory(), "output": folder_paths.get_output_directory()}
    found = ((kind, Path(root), path) for kind, root in folders.items() for path in _states_below(Path(root)))
    return {f"{path.relative_to(root).as_posix()} [{kind}]": path for kind, root, path in found}


def workflow_metadata(prompt: Any, extra_pnginfo: Mapping[str, Any] | None) -> dict[str, str]:
    """The tags by which ComfyUI's page restores a graph from a file; none if ComfyUI was told not to write them."""
    if args.disable_metadata:
        return {}
    tags = dict(extra_pnginfo or {})
    if prompt is not None:
        # Not what the server notes in it of its own caches: the same workflow must make the same file.
        nodes = {name: {key: value for key, value in node.items() if key != NOTED} for name, node in prompt.items()}
        tags["prompt"] = nodes
    return {name: json.dumps(value) for name, value in tags.items()}


def _states_below(root: Path) -> list[Path]:
    """List the states below a folder, those behind links that SFPP Save State could have written through, too."""
    return sorted(
        Path(folder, name)
        for folder, names in _walked(str(root), str(root), frozenset({os.path.realpath(root)}))
        for name in names
        if name.endswith(STATE_SUFFIX) and os.path.isfile(os.path.join(folder, name))
    )


def _walked(root: str, folder: str, links: frozenset[str]) -> Iterator[tuple[str, list[str]]]:
    """A folder and those below it, each with its names. links: those that lead there, which may lead in circles."""
    for path, folders, names in os.walk(folder):
        yield path, names
        for link in (os.path.join(path, name) for name in folders):
            if os.path.islink(link) and _may_hold_files(root, link):
                target = os.path.realpath(link)
                if target not in links:
                    yield from _walked(root, link, links | {target})


def _may_hold_files(root: str, folder: str) -> bool:
    """Return whether ComfyUI uses files of a folder below `root` by name: from 0.30 on not if a link leads out."""
    is_within = getattr(folder_paths, "is_within_directory", None)
    return is_within is None or is_within(root, folder)


def _dated(prefix: str) -> str:
    """A prefix with ComfyUI's placeholders for the time filled in."""
    for name, code in DATES.items():
        prefix = prefix.replace(f"%{name}%", time.strftime(code))
    return prefix
