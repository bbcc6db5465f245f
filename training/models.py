"""Opening networks for training: any published layout or a file of our own, as modules on the CPU."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from sfpp_core.checkpoint import Checkpoint, CheckpointError, TransformerKind, open_checkpoint
from sfpp_core.checkpoint.archive import read_archive
from sfpp_core.wan.transformer import WanTransformer
from sfpp_core.wan.vae import WanVAE

from .channels_last import channels_last_weights
from .config import ConfigError, require

INSTEAD: dict[TransformerKind, str] = {
    "student": "name the student.safetensors of an earlier stage, or a published causal student",
    "teacher": "name a model that sees whole clips: the teacher stage's teacher.safetensors, or a published Wan 2.1",
}
"""What to name where one of a kind is needed."""


def check_transformer(
    path: str, *, key: str = "checkpoint", kind: TransformerKind | None = None, text_dim: int | None = None
) -> Checkpoint:
    """What `open_transformer` opens, with its weights still in their file, which takes no time and no memory.

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
        checkpoint.quantization is None,
        f"{key}: {path} holds {checkpoint.quantization} weights; training needs plain ones. Use the bf16 or fp16 "
        "version.",
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


def open_autoencoder(path: str) -> WanVAE:
    """The video autoencoder of a file: the built-in family's, ComfyUI's wan_2.1_vae.safetensors or Wan's own .pth.

    float32 on the CPU, evaluation mode, laid out channels last.

    Raises:
        ConfigError: nothing there, or no Wan 2.1 VAE.
    """
    try:
        content = read_archive(Path(path)).content
        vae = WanVAE.from_state_dict(_owned(content, torch.float32)).eval()
    except CheckpointError as error:
        raise ConfigError(f"{path}: found {error.found}; a Wan 2.1 VAE is needed. {error.remedy}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}.") from error
    channels_last_weights(vae)
    return vae


def fingerprint(network: nn.Module) -> str:
    """Hexadecimal fingerprint of a network's weights, every value of them: which teacher made a trajectory."""
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _owned(content: dict[str, object], dtype: torch.dtype) -> dict[str, Tensor]:
    """Copies of the tensors."""
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    return {name: tensor.to(dtype, copy=True) for name, tensor in tensors.items()}
