"""A ComfyUI node that makes a video with nothing beside it: what SFPP Sampler is compared with by benchmarks.overhead.

Copied into the custom_nodes folder of the benchmark's own server, where the pack is loaded already.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

PACK_ENDING = "self-forcing-pp"


def _pack(module: str) -> Any:
    """A module of the pack, which ComfyUI has imported under a name of its own."""
    (name,) = (name for name in sys.modules if name.endswith(PACK_ENDING))
    return importlib.import_module(f"{name}.{module}")


class BareRollout:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "make"
    CATEGORY = "benchmarks"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL",),
                "positive": ("CONDITIONING",),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**63}),
                "width": ("INT", {"default": 64, "min": 16, "max": 8192}),
                "height": ("INT", {"default": 64, "min": 16, "max": 8192}),
                "chunks": ("INT", {"default": 1, "min": 1, "max": 10_000}),
            }
        }

    def make(
        self, model: Any, positive: list, seed: int, width: int, height: int, chunks: int
    ) -> tuple[dict[str, Any]]:
        import comfy.model_management as memory

        network = _pack("nodes.comfy.model")
        state_module, rollout_module = _pack("sfpp_core.rollout.state"), _pack("sfpp_core.rollout.rollout")
        settings = _pack("nodes.comfy.sampling").preset_settings(model, _pack("nodes.comfy.report").Report())
        memory.load_models_gpu([model])
        shape = (1, 16, height // 8, width // 8)
        state = state_module.RolloutState(config=settings, seed=seed, model_id="bare", shape=shape)
        rollout = rollout_module.Rollout(
            network.HostNetwork(model), state, positive[0][0], dtype=_pack("nodes.comfy.wired").compute_dtype(model)
        )
        for _ in rollout.run(chunks):
            pass
        return ({"samples": rollout.state.latents},)


NODE_CLASS_MAPPINGS = {"BareRollout": BareRollout}
