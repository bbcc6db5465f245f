"""SFPP Continue Video: an existing clip as the beginning of a film."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..sfpp_core.wan.config import FRAMES_PER_SECOND
from .host.continued import ContinuedClip
from .host.encoding import encode_pictures
from .host.report import Report
from .size_widgets import side_input
from .vocabulary import CATEGORY, Clip, search_aliases

FITTED = "The clip is scaled to cover it and cut evenly. 0: the clip's own."


class ContinueVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SFPPContinueVideo",
            display_name="SFPP Continue Video",
            category=CATEGORY,
            **search_aliases("video to video", "continue video", "extend clip", "self forcing", "long video"),
            description="Encodes the end of a clip, so that SFPP Sampler goes on from it. Wire clip into SFPP Decode "
            "To Video to get the clip and what follows as one film.",
            inputs=[
                io.Video.Input("video", tooltip="The clip, from Load Video. Of any length, size and frame rate."),
                io.Vae.Input("vae", tooltip="The Wan 2.1 VAE, or the one of SFPP Load Tiny."),
                io.Float.Input(
                    "seconds",
                    default=5.0,
                    min=0.1,
                    max=60.0,
                    step=0.5,
                    round=0.01,
                    tooltip="How much of the clip's end the model sees. 5 fill the window of most models; less lets it "
                    "forget how things moved. At 16 frames a second, whatever the clip's own rate.",
                ),
                side_input("width", FITTED, default=0, least=0),
                side_input("height", FITTED, default=0, least=0),
            ],
            outputs=[
                io.Latent.Output("start", display_name="start", tooltip="For start of SFPP Sampler."),
                io.Int.Output("film_width", display_name="width", tooltip="For width of SFPP Sampler."),
                io.Int.Output("film_height", display_name="height", tooltip="For height of SFPP Sampler."),
                Clip.Output("clip", display_name="clip", tooltip="For before of SFPP Decode To Video."),
            ],
        )

    @classmethod
    def execute(cls, video: Any, vae: Any, seconds: float, width: int, height: int) -> io.NodeOutput:
        clip = ContinuedClip.of(video, seconds=seconds, width=width, height=height)
        report = Report()
        report.add(
            f"The last {clip.num_given / FRAMES_PER_SECOND:.2f} of {clip.num_frames / FRAMES_PER_SECOND:.2f} s, "
            f"{clip.width}x{clip.height} pixels."
        )
        latents = encode_pictures(vae, clip.given(), clip.num_given)
        return io.NodeOutput({"samples": latents}, clip.width, clip.height, clip, ui=report.ui())
