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

from .config import ConfigError, require


def shard_path(folder: Path, index: int) -> Path:
    """File of a shard."""
    return folder / f"clips-{index:05d}.safetensors"


def write_shard(path: Path, latents: Tensor, prompts: Sequence[Sequence[str]]) -> None:
    """Write clips, B C T H W in model space, each with its prompts (the same scene in several wordings)."""
    with replacing(path) as temporary:
        stored = {"latents": latents.to(torch.float16).contiguous()}
        save_file(stored, str(temporary), metadata={"prompts": json.dumps([list(wordings) for wordings in prompts])})


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSource:
    """Some of the clips that a run of the latents stage made."""

    folder: str
    """Where that run lies."""
    clips: int
    """How many, from the first."""

    def __post_init__(self) -> None:
        require(self.clips >= 1, f"clips of {self.folder} is {self.clips}; it must be at least 1.")


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
    def read(cls, sources: Sequence[ClipSource], frames: int) -> LatentClips:
        """The clips of every source, in order, cut to their first `frames` latent frames.

        Raises:
            ConfigError: a folder holds fewer clips, or shorter ones.
        """
        latents, prompts = [], []
        for source in sources:
            part = _read_folder(Path(source.folder), source.clips)
            if part.latents.shape[2] < frames:
                raise ConfigError(
                    f"{source.folder} holds clips of {part.latents.shape[2]} latent frames, {frames} are wanted; run "
                    f"the latents stage with frames={frames}."
                )
            # A copy, so that the frames that are cut off leave memory.
            latents.append(part.latents[:, :, :frames].clone())
            prompts.extend(part.prompts)
        return cls(torch.cat(latents), prompts)


def _read_folder(folder: Path, count: int) -> LatentClips:
    """The first `count` clips of a folder."""
    latents, prompts = [], []
    index = 0
    while len(prompts) < count and shard_path(folder, index).is_file():
        with safe_open(shard_path(folder, index), framework="pt") as shard:
            latents.append(shard.get_tensor("latents"))
            prompts.extend(json.loads(shard.metadata()["prompts"]))
        index += 1
    if len(prompts) < count:
        raise ConfigError(
            f"{folder} holds {len(prompts)} clips, {count} are wanted; run the latents stage with clips={count}."
        )
    return LatentClips(torch.cat(latents)[:count], prompts[:count])
