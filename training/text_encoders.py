"""The text encoders that prompts are prepared with, behind one face: embeddings of words, without their padding.

Wan 2.1 pads text with zeros after the encoder and lets attention see the padding, so how far to pad belongs to the
encoder: 512 tokens for UMT5, 32 for the built-in family's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sfpp_core.tiny.text import PADDING

from .models import open_family_text_encoder

ENCODERS = ("tiny", "umt5")


class TextEncoder(Protocol):
    """What preparing prompts needs."""

    length: int
    """Tokens that an embedding is padded to."""

    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """An embedding [tokens, text_dim] a prompt, on the CPU, in the precision that the encoder computes in; what
        does not fit into `length` tokens is cut off."""
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
    from .umt5 import Umt5Texts

    return Umt5Texts(path, tokenizer, device=device, dtype=dtype)
