"""The settings that this project's own files carry in their safetensors header, under `sfpp`.

A JSON object: `kind` (`student` or `teacher`), `model` (the fields of WanConfig), and for a student `rollout` (the
fields of RolloutConfig it was trained for). Other entries (seed, stage, ...) are the training's and not read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ..json_text import parse_json
from ..rollout.config import RolloutConfig
from ..wan.config import WanConfig
from .errors import CheckpointError

HEADER_KEY = "sfpp"
TransformerKind = Literal["student", "teacher"]
TRANSFORMER_KINDS: tuple[TransformerKind, ...] = get_args(TransformerKind)


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What an own file says of itself."""

    kind: TransformerKind
    model: WanConfig
    rollout: RolloutConfig | None
    """None for a teacher, which sees whole clips."""


def read_header(path: Path, metadata: Mapping[str, str]) -> Header | None:
    """The header of an own file, None for files of others. Raises CheckpointError."""
    if HEADER_KEY not in metadata:
        return None
    try:
        entries = parse_json(metadata[HEADER_KEY])
        kind = entries["kind"]
        if kind in TRANSFORMER_KINDS:
            return Header(kind=kind, model=WanConfig(**entries["model"]), rollout=_rollout(entries.get("rollout")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            path,
            found=f"a {HEADER_KEY} header that cannot be used ({type(error).__name__}: {error})",
            remedy="The file was edited, or is of a newer version of this pack: then update the pack.",
        ) from error
    raise CheckpointError(
        path,
        found=f"this project's own {kind}",
        remedy="Choose a student file; SFPPLoadTiny loads all parts of the built-in family.",
    )


def _rollout(entries: dict | None) -> RolloutConfig | None:
    return None if entries is None else RolloutConfig.from_json(entries)
