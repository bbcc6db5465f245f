"""A ComfyUI MODEL behind the two calls that a rollout makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...sfpp_core.checkpoint import expected_shapes
from ...sfpp_core.wan.config import WanConfig, infer_config
from ...sfpp_core.wan.forward import KeyValueCache, TextContext, embed_text, predict_flow
from ...sfpp_core.wan.geometry import WAN21
from .attention import HostAttention

COMPILED = "_orig_mod."
"""What torch.compile puts into the names of the weights of a block."""
WHAT_FITS = "Wire a Wan 2.1 text-to-video model (1.3B or 14B), from SFPP Load Model or Load Diffusion Model."


class HostNetwork:
    """The module tree of a MODEL that ComfyUI loaded, with its LoRAs, quantisation and offloading, as a causal student.

    Valid while the MODEL is loaded, which is why no state ever holds one.
    """

    def __init__(self, model: ModelPatcher) -> None:
        """Raises ValueError if the MODEL is not a Wan 2.1 text-to-video model."""
        self.config = wan_config(model)
        self._modules = model.model.diffusion_model
        self._attention = HostAttention(model.model_options.get("transformer_options", {}))

    def embed_text(self, text: Tensor) -> TextContext:
        return embed_text(self._modules, self.config, text)

    def __call__(
        self, x: Tensor, timestep: Tensor, text: Tensor | TextContext, *, cache: KeyValueCache | None
    ) -> Tensor:
        return predict_flow(self._modules, self.config, x, timestep, text, attention=self._attention, cache=cache)


def wan_config(model: ModelPatcher) -> WanConfig:
    """The sizes of a MODEL's transformer. Raises ValueError, saying what the MODEL is, if the sampler cannot run it."""
    modules = getattr(model.model, "diffusion_model", None)
    shapes = {name: tuple(weight.shape) for name, _, weight in named_weights(modules)} if modules is not None else {}
    try:
        config = infer_config(shapes)
    except (KeyError, ValueError) as error:
        raise ValueError(f"MODEL is {type(model.model).__name__}, which is not Wan 2.1. {WHAT_FITS}") from error
    if reason := _why_unfit(shapes, config):
        raise ValueError(f"MODEL is {reason}. {WHAT_FITS}")
    return config


def named_weights(modules: nn.Module) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Each weight under Wan's name and under the one that ComfyUI knows it by: compiled blocks stay in a MODEL once it
    was loaded with them."""
    for name, weight in modules.named_parameters():
        yield name.replace(COMPILED, ""), name, weight


def compute_dtype(model: ModelPatcher) -> torch.dtype:
    """What ComfyUI wants this MODEL's inputs in."""
    return model.model.manual_cast_dtype or model.model.get_dtype()


def _why_unfit(shapes: Mapping[str, tuple[int, ...]], config: WanConfig) -> str | None:
    if any(name.startswith("img_emb.") for name in shapes):
        return "an image-to-video model, which expects an image embedding at every step"
    if config.out_channels != WAN21.channels:
        return f"a model of {config.out_channels}-channel latents (Wan 2.2 5B, for example)"
    if config.in_channels != WAN21.channels:
        return f"an image-to-video or inpainting model: it takes {config.in_channels} channels instead of 16"
    expected = expected_shapes(config)
    if extra := sorted(shapes.keys() - expected.keys()):
        return f"a variant of Wan with parts of its own ({extra[0]} and {len(extra) - 1} more weights)"
    if missing := sorted(expected.keys() - shapes.keys()):
        return f"a variant of Wan that lacks weights ({missing[0]} and {len(missing) - 1} more)"
    return None
