"""SFPP Decode To Video: latents to an MP4 file while they are decoded."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from comfy_api.latest import InputImpl, io, ui

from ..sfpp_core.video.codecs import CODECS, DEFAULT_CRF, H264, MAX_CRF
from ..sfpp_core.video.writer import VideoWriter, exact_rate, save_thumbnail
from ..sfpp_core.wan.config import FRAMES_PER_SECOND, WAN21
from .comfy.files import check_prefix, new_output_file, workflow_metadata
from .comfy.live_video import LIVE_SETTINGS, reuse_live_video
from .comfy.model import Latent, video_latents
from .comfy.progress import InterruptibleBar
from .comfy.report import Report
from .comfy.vae import Video, decode_video, encode_pictures, wan_vae
from .comfy.video import Audio, ContinuedVideo, behind, sound_of, video_sound
from .widgets import CATEGORY, CheckedNode, SourceVideo, require_choice, search_aliases, side_input

AS_MADE = 0.0
MAX_FPS = 240.0


class SFPPDecodeToVideo(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SFPPDecodeToVideo",
            display_name="SFPP Decode To Video",
            category=CATEGORY,
            **search_aliases("save video", "mp4", "VAE decode", "long video", "self forcing"),
            description="Decodes a video and writes it to an MP4 file frame by frame: a video of an hour takes no more "
            "memory than one of a second, and can be watched while it grows. The file carries the workflow: drop it on "
            "the page to get it back.",
            inputs=[
                # Lazy: what cannot be used of the rest is found before the video is sampled.
                io.Latent.Input("latent", lazy=True, tooltip="From SFPP Sampler or SFPP Extend (whole latent)."),
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
                    tooltip="Quality of the compression: lower is better and larger. 18 looks like the original, 28 is "
                    "for sharing (H.265: 20 and 30); 0 loses nothing but colour resolution, and not every player shows "
                    "it.",
                ),
                io.Combo.Input(
                    "codec",
                    options=list(CODECS),
                    default=H264.name,
                    optional=True,
                    tooltip="H.264 plays everywhere. H.265 is about a quarter smaller at the same quality, takes "
                    "longer to write, and not every browser plays it.",
                ),
                io.Float.Input(
                    "fps",
                    default=AS_MADE,
                    min=AS_MADE,
                    max=MAX_FPS,
                    step=1.0,
                    round=0.001,
                    optional=True,
                    tooltip="Frames per second of the file, such as 24, 25, 29.97 or 30. 0: as made, "
                    f"{FRAMES_PER_SECOND}. Otherwise frames are shown twice or left out, none is invented; the video "
                    "keeps its length and its speed.",
                ),
                io.Boolean.Input(
                    "thumbnail",
                    default=True,
                    optional=True,
                    tooltip="Also save the first picture as a small PNG beside the video, for galleries and for file "
                    "browsers that show no videos. It carries the workflow, too.",
                ),
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="Sound for the video, from its first frame on: cut where the video ends; if it is shorter, "
                    "silence follows. Saved as AAC. Not connected: the sound of the source video in before, if it "
                    "has any.",
                ),
                SourceVideo.Input(
                    "before",
                    optional=True,
                    tooltip="The source video that this one continues, from SFPP Continue Video: the file shows it "
                    "first, in its own pictures and with its own sound, and goes on with what was made, in silence. If "
                    "audio is wired, that is heard instead.",
                ),
            ],
            outputs=[
                io.Video.Output("video", display_name="video", tooltip="The finished file, for stock video nodes.")
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def check(cls, *, filename_prefix: str | None = None, **inputs: Any) -> None:
        """Refuse a name that no file can have before the video is made; one that is wired in is only known later."""
        del inputs
        if filename_prefix is not None:
            check_prefix(filename_prefix)

    @classmethod
    def check_lazy_status(
        cls, latent: Latent | None = None, vae: Any = None, audio: Audio | None = None, **inputs: Any
    ) -> list[str]:
        """Look at the VAE and the sound before the video is asked for. Raises ValueError if they cannot be used."""
        del inputs
        wan_vae(vae)
        if audio is not None:
            sound_of(audio)
        return ["latent"] if latent is None else []

    @classmethod
    def execute(
        cls,
        latent: Latent,
        vae: Any,
        filename_prefix: str,
        crf: int,
        codec: str = H264.name,
        fps: float = AS_MADE,
        thumbnail: bool = True,
        audio: Audio | None = None,
        before: ContinuedVideo | None = None,
    ) -> io.NodeOutput:
        require_choice("codec", codec, CODECS)
        samples = video_latents(latent, "latent")
        height, width = (side * WAN21.spatial_stride for side in samples.shape[-2:])
        if before is not None and (before.height, before.width) != (height, width):
            raise ValueError(
                f"before is {before.width}x{before.height} pixels, the video {width}x{height}. Wire width and height "
                "of SFPP Continue Video into SFPP Sampler."
            )
        report = Report()
        seconds = WAN21.seconds(samples.shape[2])
        if before is not None:
            seconds += (before.num_frames - before.num_given) / FRAMES_PER_SECOND
        sound = video_sound(audio, before, seconds, report)
        metadata = workflow_metadata(cls.hidden.prompt, cls.hidden.extra_pnginfo)

        def video(path: Path) -> AbstractContextManager[Video]:
            writer = VideoWriter(
                path,
                width,
                height,
                fps=exact_rate(fps or FRAMES_PER_SECOND),
                made_fps=FRAMES_PER_SECOND,
                codec=CODECS[codec],
                crf=crf,
                sound=sound,
                metadata=metadata,
            )
            return writer if before is None else behind(before, writer)

        is_live = (codec, crf, fps or FRAMES_PER_SECOND) == LIVE_SETTINGS and sound is None and before is None
        with new_output_file(filename_prefix, ".mp4", width=width, height=height) as file:
            if not (is_live and reuse_live_video(latent, vae, file.path, metadata)):
                decode_video(vae, samples, partial(video, file.path), InterruptibleBar().update, report)
            if thumbnail:
                save_thumbnail(file.path, metadata=metadata)
        preview = ui.PreviewVideo([ui.SavedResult(file.filename, file.subfolder, io.FolderType.output)])
        return io.NodeOutput(InputImpl.VideoFromFile(str(file.path)), ui=preview.as_dict() | report.ui())


FITTED = "The source video is scaled to cover it and cut evenly. 0: its own size."


class SFPPContinueVideo(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SFPPContinueVideo",
            display_name="SFPP Continue Video",
            category=CATEGORY,
            **search_aliases("video to video", "continue video", "extend clip", "self forcing", "long video"),
            description="Encodes the end of a video, so that SFPP Sampler goes on from it. Wire source video into SFPP "
            "Decode To Video to get it and what follows as one video.",
            inputs=[
                io.Video.Input(
                    "video", tooltip="The source video, from Load Video. Of any length, size and frame rate."
                ),
                io.Vae.Input("vae", tooltip="The Wan 2.1 VAE, or the one of SFPP Load Tiny."),
                io.Float.Input(
                    "seconds",
                    default=5.0,
                    min=0.1,
                    max=60.0,
                    step=0.5,
                    round=0.01,
                    tooltip="How much of the source video's end the model sees. 5 fill the window of most models; less "
                    "lets it forget how things moved. At 16 frames a second, whatever the source video's own rate.",
                ),
                side_input("width", FITTED, default=0, least=0),
                side_input("height", FITTED, default=0, least=0),
            ],
            outputs=[
                io.Latent.Output("start", display_name="start", tooltip="For start of SFPP Sampler."),
                io.Int.Output("film_width", display_name="width", tooltip="For width of SFPP Sampler."),
                io.Int.Output("film_height", display_name="height", tooltip="For height of SFPP Sampler."),
                SourceVideo.Output("clip", display_name="source video", tooltip="For before of SFPP Decode To Video."),
            ],
        )

    @classmethod
    def execute(cls, video: Any, vae: Any, seconds: float, width: int, height: int) -> io.NodeOutput:
        clip = ContinuedVideo.of(video, seconds=seconds, width=width, height=height)
        report = Report()
        report.add(
            f"The last {clip.num_given / FRAMES_PER_SECOND:.2f} of {clip.num_frames / FRAMES_PER_SECOND:.2f} s, "
            f"{clip.width}x{clip.height} pixels."
        )
        latents = encode_pictures(vae, clip.given(), clip.num_given)
        return io.NodeOutput({"samples": latents}, clip.width, clip.height, clip, ui=report.ui())
