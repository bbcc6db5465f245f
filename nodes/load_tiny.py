"""SFPP Load Tiny: the model that comes with the pack."""

from __future__ import annotations

from comfy_api.latest import io

from .host.tiny import load_tiny_clip, load_tiny_model, load_tiny_vae
from .vocabulary import CATEGORY, search_aliases


class LoadTiny(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SFPPLoadTiny",
            display_name="SFPP Load Tiny",
            category=CATEGORY,
            **search_aliases("self forcing", "built-in model", "demo", "long video"),
            description="Loads the small model that comes with the pack: nothing to download, seconds of film in "
            "seconds of time on any CPU. It knows a toy world only: one coloured ball, boat, kite or lantern that "
            "moves left or right or bounces, slowly or quickly, in a desert, at sea, on a meadow or in the mountains.",
            inputs=[],
            outputs=[
                io.Model.Output("model", display_name="model", tooltip="The causal student, for SFPP Sampler."),
                io.Clip.Output("clip", display_name="clip", tooltip="Its text encoder, for CLIP Text Encode."),
                io.Vae.Output("vae", display_name="vae", tooltip="Its VAE, for SFPP Decode To Video or VAE Decode."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(load_tiny_model(), load_tiny_clip(), load_tiny_vae())
