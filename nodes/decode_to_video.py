"""SFPP Decode To Video: latents to an MP4 file while they are decoded."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import InputImpl, io, ui

from ..sfpp_core.video.writer import DEFAULT_CRF, MAX_CRF, VideoWriter
from ..sfpp_core.wan.geometry import FRAMES_PER_SECOND, WAN21
from .host.decoding import decode_frames
from .host.files import new_output_file, prefix_problem, workflow_metadata
from .host.latents import Latent, video_latents
from .host.progress import InterruptibleBar
from .vocabulary import CATEGORY, search_aliases


class DecodeToVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SFPPDecodeToVideo",
            display_name="SFPP Decode To Video",
            category=CATEGORY,
            **search_aliases("save video", "mp4", "VAE decode", "long video", "self forcing"),
            description="Decodes a film and writes it to an MP4 file frame by frame: a film of an hour takes no more "
            "memory than one of a second. The file carries the workflow: drop it on the page to get it back.",
            inputs=[
                io.Latent.Input("latent", tooltip="From SFPP Sampler or SFPP Extend (whole latent)."),
                io.Vae.Input("vae", tooltip="The Wan 2.1 VAE, or the one of SFPP Load Tiny."),
                io.String.Input(
                    "filename_prefix",
                    default="video/film",
                    tooltip="Name of the file in the output folder, with sub-folders if you like; a number is added. "
                    "%year%, %month%, %day%, %width%, %height%, ... are filled in.",
                ),
                io.Int.Input(
                    "crf",
                    default=DEFAULT_CRF,
                    min=0,
                    max=MAX_CRF,
                    tooltip="Quality of the H.264 compression: lower is better and larger. 18 looks like the original, "
                    "28 is for sharing; 0 loses nothing but colour resolution, and not every player shows it.",
                ),
            ],
            outputs=[
                io.Video.Output("video", display_name="video", tooltip="The finished file, for stock video nodes.")
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        """Refuse a name that no file can have before the film is made; one that is wired in is only known later."""
        return True if filename_prefix is None else prefix_problem(filename_prefix) or True

    @classmethod
    def execute(cls, latent: Latent, vae: Any, filename_prefix: str, crf: int) -> io.NodeOutput:
        samples = video_latents(latent, "latent")
        height, width = (side * WAN21.spatial_stride for side in samples.shape[-2:])
        file = new_output_file(filename_prefix, ".mp4", width=width, height=height)
        metadata = workflow_metadata(cls.hidden.prompt, cls.hidden.extra_pnginfo)
        frames = decode_frames(vae, samples)
        bar = InterruptibleBar()
        with VideoWriter(file.path, width, height, fps=FRAMES_PER_SECOND, crf=crf, metadata=metadata) as writer:
            for done, piece in enumerate(frames, start=1):
                writer.write(piece)
                bar.update(done, samples.shape[2])
        preview = ui.PreviewVideo([ui.SavedResult(file.filename, file.subfolder, io.FolderType.output)])
        return io.NodeOutput(InputImpl.VideoFromFile(str(file.path)), ui=preview)
