"""A folder of encoded clips with their prompts: shards in safetensors, read into memory whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..config import ConfigError, require
from .shards import Shard, ShardFolder, open_shard, read_header


def clip_shards(folder: Path) -> ShardFolder:
    """The shards of a folder of clips."""
    return ShardFolder(folder, "clips")


def clip_shard(latents: Tensor, prompts: Sequence[Sequence[str]]) -> Shard:
    """Clips, B C T H W in model space, each with its prompts (the same scene in several wordings)."""
    wordings = [list(wordings) for wordings in prompts]
    return Shard(tensors={"latents": latents.to(torch.float16)}, header={"prompts": wordings})


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

    def clip(self, index: int) -> Tensor:
        """[C, T, H, W], float32."""
        return self.latents[index].float()

    def prompt(self, index: int, wording: int) -> str:
        """A clip's prompt in one of its wordings, whose number is taken modulo theirs."""
        return self.prompts[index][wording % len(self.prompts[index])]

    @classmethod
    def read(cls, sources: Sequence[ClipSource], frames: int) -> LatentClips:
        """The clips of every source, in order, cut to their first `frames` latent frames.

        Raises:
            ConfigError: a folder is not finished, or holds fewer clips, or shorter ones.
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
    """The first `count` clips of a folder, which has to be finished."""
    latents, prompts = [], []
    for path in clip_shards(folder).whole(stage="latents"):
        if len(prompts) >= count:
            break
        with open_shard(path) as shard:
            latents.append(shard.get_tensor("latents"))
        prompts.extend(read_header(path)["prompts"])
    if len(prompts) < count:
        raise ConfigError(
            f"{folder} holds {len(prompts)} clips, {count} are wanted; run the latents stage with clips={count}."
        )
    return LatentClips(torch.cat(latents)[:count], prompts[:count])
