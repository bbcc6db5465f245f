"""Prompts with their embeddings: made in memory, or once and for all in a folder that is read as it is needed.

Padding is not stored: a prompt of 100 tokens takes 0.8 MB of UMT5's bfloat16, and 4.2 MB with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from .config import require
from .shards import Shard, ShardFolder, read_header

KIND = "texts"


class PreparedTexts(Protocol):
    """Prompts whose embeddings are known."""

    prompts: list[str]
    negative: Tensor
    """Embedding of the negative prompt, [tokens, text_dim]."""
    length: int
    """Tokens to pad to."""

    def embedding(self, index: int) -> Tensor:
        """Embedding of a prompt, [tokens, text_dim]."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TextsInMemory:
    """Embeddings that were made at the start of the run."""

    prompts: list[str]
    embeddings: list[Tensor]
    negative: Tensor
    length: int

    def embedding(self, index: int) -> Tensor:
        """See PreparedTexts."""
        return self.embeddings[index]


class TextsOnDisk:
    """Embeddings of a folder of the embeddings stage; of a prompt only its own bytes are read."""

    def __init__(self, folder: str) -> None:
        """Raises ConfigError if the folder holds none or not all of them, or those of several negative prompts."""
        paths = text_shards(Path(folder)).whole(stage="embeddings")
        require(bool(paths), f"{folder} holds no embeddings; make them with: python -m training embeddings")
        headers = [read_header(path) for path in paths]
        negatives = {header["negative_prompt"] for header in headers}
        require(len(negatives) == 1, f"{folder} holds embeddings of several runs; make them again in a new folder.")
        self.prompts = [prompt for header in headers for prompt in header["prompts"]]
        self.length: int = headers[0]["length"]
        self._places = [
            (path, sum(header["tokens"][:place]), tokens)
            for path, header in zip(paths, headers, strict=True)
            for place, tokens in enumerate(header["tokens"])
        ]
        with safe_open(paths[0], framework="pt") as file:
            self.negative = file.get_tensor("negative")

    def embedding(self, index: int) -> Tensor:
        """See PreparedTexts."""
        path, first, tokens = self._places[index]
        with safe_open(path, framework="pt") as file:
            return file.get_slice("embeddings")[first : first + tokens]


def text_shards(folder: Path) -> ShardFolder:
    """The shards of such a folder."""
    return ShardFolder(folder, KIND)


def text_shard(prompts: Sequence[str], embeddings: Sequence[Tensor], negative: Tensor, header: dict[str, Any]) -> Shard:
    """Prompts with their embeddings [tokens, text_dim] as a shard. header: `negative_prompt`, `length`, and more."""
    tensors = {"embeddings": torch.cat(list(embeddings)), "negative": negative}
    tokens = [len(embedding) for embedding in embeddings]
    return Shard(tensors=tensors, header={"prompts": list(prompts), "tokens": tokens, **header})
