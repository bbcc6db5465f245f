"""The built-in family as ComfyUI's own objects, so that stock nodes work with it."""

from __future__ import annotations

from typing import Any

import comfy.sd
import torch
from comfy.model_management import intermediate_device
from comfy.model_patcher import ModelPatcher
from comfy.supported_models_base import ClipTarget
from safetensors.torch import load_file
from torch import Tensor, nn

from ...sfpp_core.tiny.family import weights_path
from ...sfpp_core.tiny.text import TinyTextEncoder, TinyTokenizer, load_text_encoder
from .loading import AUTO_PRESET, load_model

TOKENS = "sfpp_tiny"
"""Under which name ComfyUI passes this encoder's tokens around."""

WeightedTokens = dict[str, list[list[tuple[int, float]]]]


class HostTokenizer:
    """TinyTokenizer as ComfyUI calls a tokenizer. The encoder knows no emphasis: every weight is 1."""

    def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
        self._tokenizer = TinyTokenizer()

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **options: Any) -> WeightedTokens:
        return {TOKENS: [[(token, 1.0) for token in self._tokenizer.tokenize(text)]]}

    def state_dict(self) -> dict[str, Tensor]:
        return {}


class HostTextEncoder(nn.Module):
    """TinyTextEncoder as ComfyUI calls a text encoder. It stays in float32 whatever ComfyUI would rather have."""

    def __init__(self, encoder: TinyTextEncoder, device: torch.device, dtype: Any, model_options: Any) -> None:
        super().__init__()
        self.dtypes = {torch.float32}
        self.encoder = encoder.to(device)

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """There are no layers to skip and no device to choose."""

    def reset_clip_options(self) -> None:
        """Nothing was set."""

    def encode_token_weights(self, tokens: WeightedTokens) -> tuple[Tensor, None]:
        """Text [B, L, text_dim], and no pooled output."""
        numbers = torch.tensor([[token for token, _ in prompt] for prompt in tokens[TOKENS]])
        text = self.encoder(numbers.to(next(self.encoder.parameters()).device))
        return text.to(intermediate_device()), None

    def load_sd(self, state_dict: dict[str, Tensor]) -> Any:
        return self.encoder.load_state_dict(state_dict, strict=False)


def load_tiny_model() -> ModelPatcher:
    """The student as MODEL."""
    return load_model(str(weights_path("student")), "default", True, AUTO_PRESET)


def load_tiny_clip() -> comfy.sd.CLIP:
    """The text encoder as CLIP."""
    encoder = load_text_encoder(weights_path("text_encoder"))
    target = ClipTarget(HostTokenizer, HostTextEncoder)
    target.params = {"encoder": encoder}
    return comfy.sd.CLIP(target, parameters=sum(weight.numel() for weight in encoder.parameters()))


def load_tiny_vae() -> comfy.sd.VAE:
    """The VAE, which has Wan 2.1's architecture, as VAE."""
    return comfy.sd.VAE(sd=load_file(weights_path("vae")))
