"""A folder of encoded clips with their prompts: shards in safetensors, read into memory whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sfpp_core.files import replacing

from .config import ConfigError


def shard_path(folder: Path, index: int) -> Path:
    """File of a shard."""
    return folder / f"clips-{index:05d}.safetensors"


def write_shard(path: Path, latents: Tensor, prompts: Sequence[Sequence[str]]) -> None:
    """Write clips, B C T H W in model space, each with its prompts (the same scene in several wordings)."""
    with replacing(path) as temporary:
        stored = {"latents": latents.to(torch.float16).contiguous()}
        save_file(stored, str(temporary), metadata={"prompts": json.dumps([list(wordings) for wordings in prompts])})


@dataclass(frozen=True, slots=True, eq=False)
class LatentClips:
    """Clips in memory."""

    latents: Tensor
    """B C T H W, model space, float16."""
    prompts: list[list[str]]
    """Wordings of each clip's prompt."""

    def __len__(self) -> int:
        return len(self.prompts)

    @classmethod
    def read(cls, folder: str | Path, count: int) -> LatentClips:
        """The first `count` clips of a folder.

        Raises:
            ConfigError: the folder holds fewer.
        """
        latents, prompts = [], []
        index = 0
        while len(prompts) < count and shard_path(Path(folder), index).is_file():
            with safe_open(shard_path(Path(folder), index), framework="pt") as shard:
                latents.append(shard.get_tensor("latents"))
                prompts.extend(json.loads(shard.metadata()["prompts"]))
            index += 1
        if len(prompts) < count:
            raise ConfigError(
                f"{folder} holds {len(prompts)} clips, {count} are wanted; run the latents stage with clips={count}."
            )
        return cls(torch.cat(latents)[:count], prompts[:count])
