"""UMT5-XXL, the text encoder of Wan 2.1, as Wan and ComfyUI use it.

Text is cut into SentencePiece's tokens and an end token, at most 512, and encoded in bfloat16; there is no
prefix. The network is Hugging Face's, the weights are taken from whatever an artist has on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .config import ConfigError, require
from .umt5_files import EMBEDDING, SECOND_EMBEDDING, find_encoder, find_tokenizer, read_encoder

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from transformers import UMT5EncoderModel

LENGTH = 512
"""Tokens that Wan 2.1 cuts and pads a prompt to."""
END = 1
"""SentencePiece's end token."""
MISSING = 'UMT5 needs more packages ({name} is missing); install them with: pip install -e ".[umt5]"'


class Umt5Texts:
    """A `TextEncoder`."""

    length = LENGTH

    def __init__(
        self,
        path: str | None,
        tokenizer: str | None,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        """path: models_t5_umt5-xxl-enc-bf16.pth of Wan, umt5_xxl_fp16.safetensors of ComfyUI, or a folder of
        transformers or diffusers. tokenizer: spiece.model, or a folder that holds it; None to look for it where `path`
        is, as each of the three publishers has it. dtype: what is computed in, and what embeddings are in.

        Raises:
            ConfigError: a file is missing or another model's, or packages are missing.
        """
        require(path is not None, "text_encoder is not given; name the file or the folder of UMT5-XXL.")
        files = find_encoder(Path(path))
        self._tokenizer = _tokenizer(find_tokenizer(files, Path(tokenizer) if tokenizer else None))
        self._network = _network(files.weights, device, dtype)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """One at a time: nothing to pad or to mask, and what is next to a prompt cannot change its numbers."""
        return [self._encode(prompt) for prompt in prompts]

    def _encode(self, prompt: str) -> Tensor:
        tokens = [*self._tokenizer.encode(prompt)[: LENGTH - 1], END]
        numbers = torch.tensor([tokens], device=self._network.device)
        return self._network(numbers).last_hidden_state[0].cpu()


def _tokenizer(model: bytes) -> SentencePieceProcessor:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise ConfigError(MISSING.format(name=error.name)) from error
    try:
        return SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise ConfigError("UMT5's tokenizer is no SentencePiece model; name spiece.model in tokenizer.") from error


def _network(weights: Path, device: torch.device, dtype: torch.dtype) -> UMT5EncoderModel:
    try:
        from transformers import UMT5Config, UMT5EncoderModel
    except ImportError as error:
        raise ConfigError(MISSING.format(name=error.name)) from error
    found = read_encoder(weights)
    with torch.device("meta"):
        network = UMT5EncoderModel(UMT5Config(**found.sizes, feed_forward_proj="gated-gelu", dropout_rate=0.0))
    tensors = {name: tensor.to(device, dtype) for name, tensor in found.tensors.items()}
    tensors[SECOND_EMBEDDING] = tensors[EMBEDDING]
    try:
        network.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise ConfigError(f"{weights} holds no whole UMT5 encoder; download it again. {error}") from error
    return network.eval()
