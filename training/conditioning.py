"""Prompts and what the networks are told of them, equal to what inference tells them.

From a text file of prompts, encoded at the start of the run, or from a folder of embeddings made before: UMT5-XXL is
11 GB and takes longer for ten thousand prompts than a run wants to wait at every start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .config import ConfigError, require
from .prepared_texts import PreparedTexts, TextsInMemory, TextsOnDisk
from .prompts import read_prompts
from .text_encoders import ENCODERS, TextEncoder, open_text_encoder, padded

BATCH = 64
"""Prompts encoded at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditioningConfig:
    """Either `prompts` with an encoder, or `embeddings`, which bring everything along."""

    prompts: str | None = None
    """Text file, one prompt a line, UTF-8."""
    embeddings: str | None = None
    """Folder of the embeddings stage."""
    encoder: str = "tiny"
    """tiny, the built-in family's, or umt5, Wan 2.1's."""
    text_encoder: str | None = None
    """tiny: file of the teacher stage, the one that comes with the pack by default. umt5: a file or folder, as Wan,
    ComfyUI, transformers or diffusers have it."""
    tokenizer: str | None = None
    """umt5: spiece.model or its folder, where it does not lie beside the encoder."""
    negative_prompt: str = ""
    """The prompt of guidance's other branch: the empty one for the built-in family, Wan's own for Wan."""

    def __post_init__(self) -> None:
        require(
            (self.prompts is None) != (self.embeddings is None),
            "give either conditioning.prompts, a text file, or conditioning.embeddings, a folder of the embeddings "
            "stage.",
        )
        require(
            self.encoder in ENCODERS,
            f"conditioning.encoder is {self.encoder!r}; it must be one of {', '.join(ENCODERS)}.",
        )
        if self.embeddings is not None:
            encoding = (self.text_encoder, self.tokenizer, self.negative_prompt)
            require(
                not any(encoding),
                "conditioning.embeddings bring their encoder and their negative prompt along; leave text_encoder, "
                "tokenizer and negative_prompt out.",
            )
        elif self.encoder == "umt5":
            require(
                bool(self.negative_prompt),
                "conditioning.negative_prompt is empty; Wan's guidance expects Wan's own, see "
                "training/configs/wan/embeddings.yaml.",
            )


class Conditioning:
    """Prompts by number, their embeddings padded with zeros as Wan pads them."""

    def __init__(self, texts: PreparedTexts) -> None:
        self.prompts = texts.prompts
        self._texts = texts
        self._numbers = {prompt: number for number, prompt in enumerate(texts.prompts)}

    @classmethod
    def open(cls, config: ConditioningConfig, *, device: torch.device | str = "cpu") -> Conditioning:
        """Read or make the embeddings, making them on `device`.

        Raises:
            ConfigError: prompts, embeddings or encoder are missing or cannot be used.
        """
        if config.embeddings is not None:
            return cls(TextsOnDisk(config.embeddings))
        prompts = read_prompts(config.prompts)
        encoder = open_encoder(config, device=device)
        (negative,) = encoder.encode([config.negative_prompt])
        pieces = [prompts[first : first + BATCH] for first in range(0, len(prompts), BATCH)]
        embeddings = [embedding for piece in pieces for embedding in encoder.encode(piece)]
        return cls(TextsInMemory(prompts=prompts, embeddings=embeddings, negative=negative, length=encoder.length))

    def text(self, indices: Sequence[int]) -> Tensor:
        """Embeddings of prompts by number, [B, L, text_dim], float32 on the CPU."""
        return torch.stack([self._padded(self._texts.embedding(index)) for index in indices])

    def text_of(self, prompts: Sequence[str]) -> Tensor:
        """The same by wording.

        Raises:
            ConfigError: one of them is none of `prompts`.
        """
        unknown = [prompt for prompt in prompts if prompt not in self._numbers]
        if unknown:
            raise ConfigError(
                f"conditioning has no prompt {unknown[0]!r}; name the prompts, or the embeddings, that the data were "
                "made with."
            )
        return self.text([self._numbers[prompt] for prompt in prompts])

    def negative(self, batch: int) -> Tensor:
        """The negative prompt, [batch, L, text_dim], float32 on the CPU."""
        return self._padded(self._texts.negative).expand(batch, -1, -1)

    def _padded(self, embedding: Tensor) -> Tensor:
        return padded(embedding, self._texts.length)


def open_encoder(
    config: ConditioningConfig, *, device: torch.device | str, dtype: torch.dtype = torch.bfloat16
) -> TextEncoder:
    """The text encoder that a configuration names; dtype: what UMT5 computes in, by default as inference has it."""
    device = torch.device(device)
    return open_text_encoder(config.encoder, config.text_encoder, config.tokenizer, device=device, dtype=dtype)
