"""Where files come from and go to: inside ComfyUI's input and output folders, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args

STATE_SUFFIX = ".sfpp.safetensors"
"""Ending of a saved film state, by which SFPP Load State finds it among other files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFile:
    """A file to be written in ComfyUI's output folder."""

    path: Path
    filename: str
    subfolder: str


def new_output_file(prefix: str, suffix: str, *, width: int = 0, height: int = 0) -> OutputFile:
    """The next free numbered file for a prefix, as ComfyUI's own save nodes name theirs.

    The prefix may hold sub-folders and placeholders such as %year%. ComfyUI raises if it leads out of its folder.
    """
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory(), width, height
    )
    filename = f"{name}_{counter:05}_{suffix}"
    return OutputFile(path=Path(folder, filename), filename=filename, subfolder=subfolder)


def saved_states() -> dict[str, Path]:
    """Every saved film state in the input and output folders, by the name that the artist chooses it by."""
    folders = {"input": folder_paths.get_input_directory(), "output": folder_paths.get_output_directory()}
    found = ((kind, Path(root), path) for kind, root in folders.items() for path in _states_below(Path(root)))
    return {f"{path.relative_to(root).as_posix()} [{kind}]": path for kind, root, path in found}


def workflow_metadata(prompt: Any, extra_pnginfo: Mapping[str, Any] | None) -> dict[str, str]:
    """The tags by which ComfyUI's page restores a graph from a file; none if ComfyUI was told not to write them."""
    if args.disable_metadata:
        return {}
    tags = dict(extra_pnginfo or {})
    if prompt is not None:
        tags["prompt"] = prompt
    return {name: json.dumps(value) for name, value in tags.items()}


def _states_below(root: Path) -> Iterator[Path]:
    return iter(sorted(path for path in root.rglob(f"*{STATE_SUFFIX}") if path.is_file()))
