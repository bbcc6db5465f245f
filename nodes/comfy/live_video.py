"""The live video: decoded chunk by chunk beside the sampler, into a file that grows and into its preview."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import comfy.model_management as memory
import latent_preview
from comfy.model_patcher import ModelPatcher
from PIL import Image
from torch import Tensor

from ...sfpp_core.chunk_store.keys import tensor_digest
from ...sfpp_core.files import replacing
from ...sfpp_core.rollout.state import RolloutState
from ...sfpp_core.video.codecs import DEFAULT_CRF, H264
from ...sfpp_core.video.writer import VideoWriter, make_whole
from ...sfpp_core.wan.config import FRAMES_PER_SECOND, WAN21
from ...sfpp_core.wan.vae import DecodeStream
from .fingerprint import module_values
from .inactive import what_of_the_vae_does_not_act
from .memory import is_out_of_memory
from .progress import Picture, Preview, interrupt_if_asked, say
from .report import Report
from .vae import as_frames, vae_patcher
from .wired import latent_format

logger = logging.getLogger(__name__)

KEY = "sfpp_live"
"""In a LATENT: the video that was made of it already."""
LIVE_SETTINGS = (H264.name, DEFAULT_CRF, FRAMES_PER_SECOND)
"""Codec, crf and frames per second of a live video."""
PREVIEWS_PER_SECOND = FRAMES_PER_SECOND / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRecord:
    """A finished live video, and what it is the video of."""

    path: Path
    latents: str
    """Digest of the LATENT's samples."""
    vae: str
    """Identity of the weights, device and number format that decoded it."""


class LiveVideo:
    """A context manager that takes a video's chunks in order; its file is whole after the block, if that ended well.

    It is there to be looked at. Whatever stands in its way, memory, the disk or the VAE, the artist is told, there is
    no live video any more, and the video itself goes on.
    """

    def __init__(self, model: ModelPatcher, vae: Any, state: RolloutState, report: Report) -> None:
        """state: the video so far, whose chunks come first. report: is given why there is no live video, if so.

        Raises ValueError if the VAE is not Wan 2.1's.
        """
        self._patcher = vae_patcher(vae)
        report.add_all(what_of_the_vae_does_not_act(vae))
        self._step = int(vae.memory_used_decode((1, WAN21.channels, 1, *state.shape[2:]), vae.vae_dtype))
        self._to_vae_space = latent_format(model).process_out
        self._dtype = vae.vae_dtype
        self._identity = decoder_identity(vae)
        self.path = Path()
        self._before = state
        self._report = report
        self._stream: DecodeStream | None = DecodeStream(self._patcher.model)
        self._resources = ExitStack()
        self._is_whole = False

    def grow_in(self, folder: Path, plan: str) -> None:
        """Say where the file will be, growing as unfinished.NAME...., before the block begins.

        plan: names what is made of the state, see `VideoSpool.plan`.
        """
        # Another VAE's video of the same latents is another video.
        self.path = folder / f"live_{plan}_{self._identity[:12]}.mp4"
        height, width = (side * WAN21.spatial_stride for side in self._before.shape[2:])
        self._writer = VideoWriter(self.path, width, height, crf=DEFAULT_CRF, codec=H264)

    def memory_required(self) -> int:
        """Bytes that the VAE and its work take on their device."""
        return self._patcher.model_size() + self._step

    def load(self) -> list[ModelPatcher]:
        """Bring all of the VAE's weights to their device; what has to stay there, nothing if there is no room."""
        with self._expendable():
            memory.load_models_gpu([self._patcher], memory_required=self._step, force_full_load=True)
        return [] if self._stream is None else [self._patcher]

    def __enter__(self) -> LiveVideo:
        if self._stream is None:
            return self
        with self._expendable():
            self._resources.enter_context(self._writer)
            say(f"The video grows in {self.path.parent}, for any player.")
        for chunk in self._before.chunks:
            self.push(chunk.latents)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        with self._expendable():
            self._resources.__exit__(kind, error, trace)
        self._is_whole = kind is None and self._stream is not None

    def push(self, latents: Tensor) -> list[Picture]:
        """Decode the next chunk and add it to the file.

        Args:
            latents: [1, C, T, h, w], model space.

        Returns:
            Pictures for the preview, eight a second, or none.

        Raises:
            InterruptProcessingException: ComfyUI's interrupt.
        """
        pictures: list[Picture] = []
        with self._expendable():
            for frame in self._to_vae_space(latents).split(1, dim=2) if self._stream else ():
                interrupt_if_asked()
                pixels = self._stream.push(frame.to(self._patcher.load_device, self._dtype))
                frames = as_frames(pixels)
                self._writer.write(frames)
                pictures += [partial(_preview, frame) for frame in frames[1::2]]
        return pictures

    def record(self, samples: Tensor) -> Mapping[str, LiveRecord]:
        """Return what to add to the LATENT that holds `samples` [1, C, T, h, w]; nothing if the video is not whole."""
        if not self._is_whole:
            return {}
        return {KEY: LiveRecord(path=self.path, latents=tensor_digest(samples), vae=self._identity)}

    @contextmanager
    def _expendable(self) -> Iterator[None]:
        try:
            yield
        except memory.InterruptProcessingException as interrupt:
            self._close(interrupt)
            raise
        except Exception as problem:
            logger.info("No live video: %s", problem, exc_info=not isinstance(problem, OSError))
            self._stream = None
            self._close(problem)
            reason = "there is not enough memory for it" if is_out_of_memory(problem) else str(problem)
            self._report.add(f"The video is not shown while it is made, because {reason}. It is made all the same.")

    def _close(self, error: BaseException) -> None:
        """Remove the unfinished file."""
        resources, self._resources = self._resources, ExitStack()
        with suppress(OSError):
            resources.__exit__(type(error), error, error.__traceback__)


def decoder_identity(vae: Any) -> str:
    """Return what decides the pixels of a ComfyUI VAE."""
    return f"{module_values(vae.first_stage_model)} {vae.vae_dtype} {vae.device}"


def reuse_live_video(latent: Mapping[str, Any], vae: Any, target: Path, metadata: Mapping[str, str]) -> bool:
    """Copy the video that was made of this very LATENT beside the sampler to `target`, if there is one by this VAE."""
    record = latent.get(KEY)
    if not isinstance(record, LiveRecord) or not record.path.is_file():
        return False
    if record.vae != decoder_identity(vae) or record.latents != tensor_digest(latent["samples"]):
        return False
    try:
        with replacing(target) as temporary:
            make_whole(record.path, temporary, fps=FRAMES_PER_SECOND, metadata=metadata)
    except (FileNotFoundError, av.error.InvalidDataError) as problem:
        logger.info("The video that grew beside the sampler is gone or damaged; it is decoded again: %s", problem)
        return False
    return True


def _preview(frame: Tensor) -> Preview:
    """A frame H W C in [0, 1] as ComfyUI sends previews."""
    image = Image.fromarray(frame.clamp(0, 1).mul(255).round().byte().numpy())
    return "JPEG", image, latent_preview.MAX_PREVIEW_RESOLUTION
