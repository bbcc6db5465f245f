"""Encode prompts once, so that the stages that learn from them never hold the text encoder.

Processes share the shards among themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..config import StageConfig, require
from ..data.prompt_embeds import ConditioningConfig, open_encoder, read_prompts, text_shard, text_shards
from ..data.shards import TOTAL, Shard, read_header
from ..engine.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingsStageConfig(StageConfig):
    """The embeddings stage. A run is resumed at the first shard that is missing."""

    conditioning: ConditioningConfig
    """The prompts and their encoder."""
    shard: int = 500
    """Prompts a file."""
    precision: str = "bfloat16"
    """What UMT5 computes in, and its embeddings are in. The built-in family's encoder is small, and always in
    float32."""

    def __post_init__(self) -> None:
        StageConfig.__post_init__(self)
        require(self.shard >= 1, f"shard is {self.shard}; it must be at least 1.")
        require(
            self.conditioning.prompts is not None,
            "conditioning.prompts is missing; name the text file of prompts to encode.",
        )


CONFIG = EmbeddingsStageConfig


def run(config: EmbeddingsStageConfig) -> bool:
    """Encode until this process's shards are there or `run.max_minutes` are over; True when finished."""
    conditioning = config.conditioning
    prompts = read_prompts(conditioning.prompts)
    pieces = [prompts[first : first + config.shard] for first in range(0, len(prompts), config.shard)]
    encoder = open_encoder(conditioning, device=config.device, dtype=config.compute_dtype)
    # Last: the folder then belongs to this configuration, and one that names a wrong file should own none.
    shards = text_shards(RunFolder(config, stage="embeddings").path)
    for number, path in shards.present().items():
        header = read_header(path)
        require(
            number < len(pieces)
            and header["prompts"] == pieces[number]
            and header.get(TOTAL, len(pieces)) == len(pieces),
            f"{path} was made from other prompts than {conditioning.prompts} holds now; choose another run.out.",
        )
    (negative,) = encoder.encode([conditioning.negative_prompt])
    header = {
        "encoder": conditioning.encoder,
        "negative_prompt": conditioning.negative_prompt,
        "length": encoder.length,
    }

    def make(index: int) -> Shard:
        return text_shard(pieces[index], encoder.encode(pieces[index]), negative, header)

    return shards.make(len(pieces), make, max_minutes=config.run.max_minutes)
