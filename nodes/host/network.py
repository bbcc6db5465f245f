"""A ComfyUI MODEL behind the two calls that a rollout makes."""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...sfpp_core.wan.transformer import KeyValueCache, TextContext, embed_text, predict_flow
from .attention import HostAttention
from .wired import ROOT, uncompiled, wan_config


class HostNetwork:
    """The module tree of a MODEL that ComfyUI loaded, with its LoRAs, quantisation and offloading, as a causal student.

    Its calls are valid while the MODEL is loaded, which is why no state ever holds one.
    """

    def __init__(self, model: ModelPatcher) -> None:
        """Raises ValueError if the MODEL is not a Wan 2.1 text-to-video model."""
        self.config = wan_config(model)
        self._model = model
        self._attention = HostAttention(model.model_options.get("transformer_options", {}))

    @property
    def _modules(self) -> nn.Module:
        """Asked for at each call: loading a MODEL may put another module in its place."""
        return uncompiled(getattr(self._model.model, ROOT))

    def embed_text(self, text: Tensor) -> TextContext:
        return embed_text(self._modules, self.config, text)

    def __call__(
        self, x: Tensor, timestep: Tensor, text: Tensor | TextContext, *, cache: KeyValueCache | None
    ) -> Tensor:
        return predict_flow(self._modules, self.config, x, timestep, text, attention=self._attention, cache=cache)
