"""Weights as they are shipped: safetensors with the story of their making in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sfpp_core.files import replacing

from .config import TrainConfig, as_plain
from .inputs import PROSE
from .parallel import World
from .sharding import whole


def training_record(config: TrainConfig, *, stage: str, steps: int) -> dict[str, Any]:
    """Stage, steps taken so far, seed and configuration, without what belongs to the machine that ran it.

    Files and folders are recorded by name: where they lay is nobody's business. Texts that name none stay whole.
    """
    plain = as_plain(config)
    plain.pop("run")
    return {"stage": stage, "steps": steps, "seed": config.seed, "config": _without_folders(plain)}


def _without_folders(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _without_folders(entry, name) for name, entry in value.items()}
    if isinstance(value, list):
        return [_without_folders(entry, key) for entry in value]
    is_path = isinstance(value, str) and "/" in value and key not in PROSE
    return Path(value).name if is_path else value


def write_weights(
    path: Path, weights: Mapping[str, Tensor], header: Mapping[str, Any], *, dtype: torch.dtype = torch.float32
) -> None:
    """Write weights in `dtype`, `header` as JSON under the metadata key `sfpp`; whole or not at all.

    Every process calls this: sharded weights are gathered, and the main process writes.
    """
    stored = {name: whole(weight.detach().to(dtype)).cpu().contiguous().clone() for name, weight in weights.items()}
    if not World.current().is_main:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        # One key: safetensors writes several in a random order, and a run would not know its inputs again.
        save_file(stored, str(temporary), metadata={"sfpp": json.dumps(header, sort_keys=True)})
