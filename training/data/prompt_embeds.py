"""Prompts and their embeds, equal to what inference gives the networks.

Prompts come from a text file, encoded at the start of the run, or from a folder of embeds made before: UMT5-XXL is 11
GB and takes longer for ten thousand prompts than a run wants to wait at every start. Wan 2.1 pads embeds with zeros
after the encoder and lets attention see the padding, so how far to pad belongs to the encoder: 512 tokens for UMT5, 32
for the built-in family's. Padding is not stored: a prompt of 100 tokens takes 0.8 MB of UMT5's bfloat16, and 4.2 MB
with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sfpp_core.tiny.text import PADDING

from ..config import ConfigError, require
from ..models.open import open_family_text_encoder
from .shards import Shard, ShardFolder, open_shard, read_header

ENCODERS = ("tiny", "umt5")


class TextEncoder(Protocol):
    """The part of a text encoder that preparing prompts needs."""

    length: int
    """Tokens that an embedding is padded to."""

    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """Return the embeds of each prompt, [tokens, text_dim], on the CPU in the encoder's precision.

        What does not fit into `length` tokens is cut off.
        """
        ...


class TinyTexts:
    """The built-in family's encoder, in float32."""

    def __init__(self, path: str | None, *, device: torch.device) -> None:
        """path, and what is refused: see `open_family_text_encoder`."""
        self._encoder = open_family_text_encoder(path).to(device)
        self.length = self._encoder.config.length

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """See TextEncoder."""
        tokens = self._encoder.tokenizer.batch(prompts)
        texts = self._encoder(tokens.to(next(self._encoder.parameters()).device)).cpu()
        return [text[words != PADDING] for text, words in zip(texts, tokens, strict=True)]


def padded(embedding: Tensor, length: int) -> Tensor:
    """[tokens, text_dim] to [length, text_dim], float32, zeros after the last token."""
    return F.pad(embedding.float(), (0, 0, 0, length - len(embedding)))


def open_text_encoder(
    kind: str, path: str | None, tokenizer: str | None, *, device: torch.device, dtype: torch.dtype
) -> TextEncoder:
    """The encoder of this kind, one of ENCODERS; see TinyTexts and Umt5Texts for what path and tokenizer may be.

    dtype: what UMT5 computes in; the built-in family's is small, and always in float32.

    Raises:
        ConfigError: the file is missing or another model's, or packages are missing.
    """
    if kind == "tiny":
        return TinyTexts(path, device=device)
    from ..models.umt5 import Umt5Texts

    return Umt5Texts(path, tokenizer, device=device, dtype=dtype)


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
        with open_shard(paths[0]) as file:
            self.negative = file.get_tensor("negative")

    def embedding(self, index: int) -> Tensor:
        """See PreparedTexts."""
        path, first, tokens = self._places[index]
        with open_shard(path) as file:
            return file.get_slice("embeddings")[first : first + tokens]


def text_shards(folder: Path) -> ShardFolder:
    """The shards of such a folder."""
    return ShardFolder(folder, KIND)


def text_shard(prompts: Sequence[str], embeddings: Sequence[Tensor], negative: Tensor, header: dict[str, Any]) -> Shard:
    """Prompts with their embeddings [tokens, text_dim] as a shard. header: `negative_prompt`, `length`, and more."""
    tensors = {"embeddings": torch.cat(list(embeddings)), "negative": negative}
    tokens = [len(embedding) for embedding in embeddings]
    return Shard(tensors=tensors, header={"prompts": list(prompts), "tokens": tokens, **header})


def read_prompts(path: str) -> list[str]:
    """The lines of a UTF-8 text file without the empty ones, in order; a prompt that comes twice counts once.

    Raises:
        ConfigError: no such file, none with a prompt in it, or no UTF-8.
    """
    require(Path(path).is_file(), f"{path} is no file; name a text file of prompts, one a line.")
    try:
        # Written on Windows, such files may start with a byte order mark.
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8.") from error
    prompts = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    require(bool(prompts), f"{path} holds no prompt; write one a line.")
    return prompts


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
        """Return the same by wording.

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
