"""Opening networks for training: any published layout or a file of our own, as modules on the CPU."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sfpp_core.checkpoint import Checkpoint, CheckpointError, TransformerKind, open_checkpoint
from sfpp_core.checkpoint.files import read_archive
from sfpp_core.tiny.family import load_family_text_encoder
from sfpp_core.tiny.text import TinyTextEncoder
from sfpp_core.wan.transformer import WanTransformer
from sfpp_core.wan.vae import WanVAE

from ..config import ConfigError, require, usable
from .kernels import channels_last_weights

INSTEAD: dict[TransformerKind, str] = {
    "student": "name the student.safetensors of an earlier stage, or a published causal student",
    "teacher": "name a model that sees whole clips: the teacher stage's teacher.safetensors, or a published Wan 2.1",
}
"""What to name where one of a kind is needed."""


def check_transformer(
    path: str, *, key: str = "checkpoint", kind: TransformerKind | None = None, text_dim: int | None = None
) -> Checkpoint:
    """Return what `open_transformer` opens, with its weights still in their file, which takes no time and no memory.

    key: what names the file, for refusals. kind: what is needed, if not either; files of others do not tell what they
    are and are taken at the word of who names them. text_dim: width of the texts that the network is to be told, if
    known.

    Raises:
        ConfigError: nothing there, another model, one of another kind or for other texts, or scaled fp8 weights, which
            cannot be trained.
    """
    try:
        checkpoint = open_checkpoint(path)
    except CheckpointError as error:
        raise ConfigError(f"{key}: {error}") from error
    require(
        not checkpoint.quantization,
        f"{key}: {path} holds {', '.join(checkpoint.quantization)} weights; training needs plain ones. "
        "Use the bf16 or fp16 version.",
    )
    require(
        kind is None or checkpoint.kind in (None, kind),
        f"{key}: {path} holds a {checkpoint.kind}, as its header says, where a {kind} is needed; {INSTEAD.get(kind)}.",
    )
    expected = checkpoint.config.text_dim
    require(
        text_dim in (None, expected),
        f"{key}: {path} reads embeddings {expected} wide, but those of conditioning are {text_dim} wide; use the text "
        "encoder that belongs to the model.",
    )
    return checkpoint


def open_transformer(
    path: str,
    *,
    key: str = "checkpoint",
    kind: TransformerKind | None = None,
    text_dim: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> WanTransformer:
    """The transformer of a checkpoint, in every layout of docs/checkpoints.md, on the CPU, evaluation mode.

    Its weights are copies in `dtype`: a mapped file could be replaced while a run lasts. Refused is what
    `check_transformer` refuses, with the same arguments.
    """
    checkpoint = check_transformer(path, key=key, kind=kind, text_dim=text_dim)
    with torch.device("meta"):
        network = WanTransformer(checkpoint.config)
    network.load_state_dict(_owned(checkpoint.state_dict, dtype), assign=True)
    return network.eval()


def check_autoencoder(path: str, *, key: str = "vae") -> WanVAE:
    """Return what `open_autoencoder` opens, with its weights still in their file, which takes no time and no memory.

    key: what names the file, for refusals.

    Raises:
        ConfigError: nothing there, or no Wan 2.1 VAE.
    """
    try:
        content = read_archive(Path(path)).content
        return WanVAE.from_state_dict(_tensors(content)).eval()
    except CheckpointError as error:
        raise ConfigError(f"{key}: {path}: found {error.found}; a Wan 2.1 VAE is needed. {error.remedy}") from error
    except ValueError as error:
        raise ConfigError(f"{key}: {path}: {error}.") from error


def open_autoencoder(path: str, *, key: str = "vae") -> WanVAE:
    """The video autoencoder of a file: the built-in family's, ComfyUI's wan_2.1_vae.safetensors or Wan's own .pth.

    float32 on the CPU, evaluation mode, laid out channels last. Its weights are copies, as those of `open_transformer`.
    Refused is what `check_autoencoder` refuses.
    """
    vae = check_autoencoder(path, key=key)
    vae.load_state_dict(_owned(vae.state_dict(), torch.float32), assign=True)
    channels_last_weights(vae)
    return vae


def open_family_text_encoder(path: str | None) -> TinyTextEncoder:
    """Open the built-in family's text encoder, float32 on the CPU, in evaluation mode.

    path: a file of the teacher stage; None for the one that ships.

    Raises:
        ConfigError: there is nothing there, or another model.
    """
    named = f"the text encoder {path or 'of the pack'}"
    with usable(named, instead="name a text_encoder.safetensors of the teacher stage"):
        return load_family_text_encoder(Path(path) if path else None)


def fingerprint(network: nn.Module) -> str:
    """Hexadecimal fingerprint of a network's weights, every value of them: which teacher made a trajectory."""
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _tensors(content: Mapping[str, object]) -> dict[str, Tensor]:
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def _owned(content: Mapping[str, object], dtype: torch.dtype) -> dict[str, Tensor]:
    """Copies of the tensors."""
    return {name: tensor.to(dtype, copy=True) for name, tensor in _tensors(content).items()}
