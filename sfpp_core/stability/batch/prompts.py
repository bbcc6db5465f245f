"""Which prompt a video was made from, for judges that are to know it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path


class PromptFileError(ValueError):
    """A text with prompts that cannot be used; says what is wrong with it and what to do."""


def sidecar_prompt(video: Path) -> str:
    """The text beside a video, in a `.txt` file of the same name; empty without one.

    The workflow inside a film is not searched for a prompt: a graph may hold several, and a wrong guess would change
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
