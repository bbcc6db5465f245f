"""UMT5-XXL, the text encoder of Wan 2.1, as Wan and ComfyUI use it.

Text is cut into SentencePiece's tokens and an end token, at most 512, and encoded in bfloat16; there is no prefix. The
network is Hugging Face's, the weights are those of any publisher:

| publisher | weights | tokenizer |
|---|---|---|
| Wan | models_t5_umt5-xxl-enc-bf16.pth, with names of its own | google/umt5-xxl/spiece.model beside it |
| ComfyUI | umt5_xxl_fp16.safetensors, with Hugging Face's names | inside the file, as `spiece_model` |
| transformers | a folder with config.json | spiece.model in it |
| diffusers | the folder text_encoder of a pipeline | the folder tokenizer beside it |
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sfpp_core.checkpoint import CheckpointError
from sfpp_core.checkpoint.files import read_archive

from ..config import ConfigError, require

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from transformers import UMT5EncoderModel

SPIECE = "spiece.model"
SPIECE_TENSOR = "spiece_model"
EMBEDDING = "shared.weight"
SECOND_EMBEDDING = "encoder.embed_tokens.weight"
"""Hugging Face's second name of the same weights; a file may have either."""
FIRST_BLOCK = "encoder.block.0.layer"

WAN_TOP = {"token_embedding.weight": EMBEDDING, "norm.weight": "encoder.final_layer_norm.weight"}
WAN_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)\.weight")
WAN_LAYER = {
    "norm1": "0.layer_norm",
    "norm2": "1.layer_norm",
    "pos_embedding.embedding": "0.SelfAttention.relative_attention_bias",
    "ffn.gate.0": "1.DenseReluDense.wi_0",
    "ffn.fc1": "1.DenseReluDense.wi_1",
    "ffn.fc2": "1.DenseReluDense.wo",
} | {f"attn.{part}": f"0.SelfAttention.{part}" for part in "qkvo"}


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderFiles:
    """The files of an encoder."""

    weights: Path
    """A file, or a folder with one set of weights."""
    tokenizer_places: tuple[Path, ...]
    """Where its publisher would have put the tokenizer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderWeights:
    """An encoder under Hugging Face's names."""

    tensors: dict[str, Tensor]
    """Views of the mapped file; the weights that have two names, under EMBEDDING only."""
    sizes: dict[str, int]
    """Fields of transformers' UMT5Config."""


def find_encoder(path: Path) -> EncoderFiles:
    """Return what is meant by a file, a folder of transformers, or a pipeline's folder of diffusers.

    Raises:
        ConfigError: there is nothing.
    """
    require(path.exists(), f"{path} is not there; name the file or the folder of UMT5-XXL in text_encoder.")
    if path.is_file():
        return EncoderFiles(weights=path, tokenizer_places=(path.parent, path.parent / "google" / "umt5-xxl"))
    weights = path / "text_encoder" if (path / "text_encoder").is_dir() else path
    return EncoderFiles(weights=weights, tokenizer_places=(weights, weights.parent / "tokenizer"))


def find_tokenizer(files: EncoderFiles, given: Path | None) -> bytes:
    """SentencePiece's model: of the file or folder that is given, else of the places where publishers put it.

    Raises:
        ConfigError: it is nowhere.
    """
    places = files.tokenizer_places if given is None else (given,)
    for place in places:
        file = place / SPIECE if place.is_dir() else place
        if file.is_file():
            return file.read_bytes()
    if given is None and files.weights.is_file():
        inside = _read(files.weights).get(SPIECE_TENSOR)
        if inside is not None:
            return inside.numpy().tobytes()
    searched = ", ".join(str(place) for place in places)
    raise ConfigError(f"there is no {SPIECE} in {searched}; name UMT5's tokenizer in tokenizer, a file or its folder.")


def read_encoder(path: Path) -> EncoderWeights:
    """The weights, and the sizes that they tell.

    Raises:
        ConfigError: it is no plain UMT5 encoder.
    """
    tensors = {_name(name): tensor for name, tensor in _read(path).items() if _belongs(name)}
    if (second := tensors.pop(SECOND_EMBEDDING, None)) is not None:
        tensors.setdefault(EMBEDDING, second)
    require(
        not any(name.endswith("scale_weight") for name in tensors),
        f"{path} holds scaled fp8 weights; use umt5_xxl_fp16.safetensors, or Wan's own bf16 file.",
    )
    try:
        sizes = _sizes(tensors)
    except KeyError as error:
        raise ConfigError(f"{path} holds no UMT5 encoder ({error.args[0]} is missing); use UMT5-XXL's.") from error
    return EncoderWeights(tensors=tensors, sizes=sizes)


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    vocab_size, d_model = tensors[EMBEDDING].shape
    buckets, num_heads = tensors[f"{FIRST_BLOCK}.0.SelfAttention.relative_attention_bias.weight"].shape
    return {
        "vocab_size": vocab_size,
        "d_model": d_model,
        "d_kv": tensors[f"{FIRST_BLOCK}.0.SelfAttention.q.weight"].shape[0] // num_heads,
        "d_ff": tensors[f"{FIRST_BLOCK}.1.DenseReluDense.wi_0.weight"].shape[0],
        "num_layers": len({name.split(".")[2] for name in tensors if name.startswith("encoder.block.")}),
        "num_heads": num_heads,
        "relative_attention_num_buckets": buckets,
    }


def _read(path: Path) -> dict[str, Tensor]:
    try:
        content = read_archive(path).content
    except CheckpointError as error:
        raise ConfigError(f"{path}: found {error.found}; UMT5's encoder is needed. {error.remedy}") from error
    return {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}


def _belongs(name: str) -> bool:
    """Return whether a weight is the encoder's: a whole UMT5 also has a decoder, ComfyUI's file the tokenizer."""
    return not name.startswith(("decoder.", "lm_head.")) and name != SPIECE_TENSOR


def _name(name: str) -> str:
    """Wan's names to Hugging Face's; those that are Hugging Face's stay."""
    if match := WAN_BLOCK.fullmatch(name):
        block, layer = match.groups()
        return f"encoder.block.{block}.layer.{WAN_LAYER.get(layer, layer)}.weight"
    return WAN_TOP.get(name, name)


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
        """Open the encoder and its tokenizer.

        Args:
            path: models_t5_umt5-xxl-enc-bf16.pth of Wan, umt5_xxl_fp16.safetensors of ComfyUI, or a folder of
                transformers or diffusers.
            tokenizer: spiece.model, or a folder that holds it; None to look for it where `path` is, as each of the
                three publishers has it.
            dtype: what is computed in, and what embeds are in.

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
