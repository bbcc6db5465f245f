"""The film while it is made: decoded chunk by chunk beside the sampler, into a file that grows and into its preview."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management as memory
import latent_preview
from comfy.model_patcher import ModelPatcher
from einops import rearrange
from PIL import Image
from torch import Tensor

from ...sfpp_core.files import replacing
from ...sfpp_core.rollout.state import RolloutState
from ...sfpp_core.spool.identity import tensor_digest
from ...sfpp_core.video.codecs import DEFAULT_CRF, H264
from ...sfpp_core.video.container import make_whole
from ...sfpp_core.video.writer import VideoWriter
from ...sfpp_core.wan.geometry import FRAMES_PER_SECOND, WAN21
from ...sfpp_core.wan.vae import DecodeStream
from .decoding import is_out_of_memory, wan_vae
from .identity import weights_identity
from .progress import interrupt_if_asked, say
from .projector import Picture

logger = logging.getLogger(__name__)

KEY = "sfpp_live"
"""In a LATENT: the film that was made of it already."""
LIVE_SETTINGS = (H264.name, DEFAULT_CRF, FRAMES_PER_SECOND)
"""Codec, crf and frames per second of a live film."""
NO_MEMORY = "Not enough memory to show the film while it is made; it is made all the same, and decoded afterwards."
PREVIEWS_PER_SECOND = FRAMES_PER_SECOND / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRecord:
    """A finished live film, and what it is the film of."""

    path: Path
    latents: str
    """Digest of the LATENT's samples."""
    vae: str
    """Identity of the weights, device and number format that decoded it."""


class LiveFilm:
    """A context manager that takes a film's chunks in order; the file is whole after the block, if that ended well."""

    def __init__(self, model: ModelPatcher, vae: Any, state: RolloutState, path: Path) -> None:
        """state: the film so far, whose chunks come first. path: the file, which grows beside it as unfinished.NAME....

        Raises ValueError if the VAE is not Wan 2.1's.
        """
        own = wan_vae(vae).to(vae.vae_dtype)
        self.patcher = ModelPatcher(own, load_device=vae.device, offload_device=memory.vae_offload_device())
        self._to_vae_space = model.model.process_latent_out
        self._dtype = vae.vae_dtype
        self._identity = decoder_identity(vae)
        height, width = (side * WAN21.spatial_stride for side in state.shape[2:])
        self.path = path
        self._is_whole = False
        self._stream: DecodeStream | None = DecodeStream(own)
        self._writer = VideoWriter(self.path, width, height, crf=DEFAULT_CRF, codec=H264)
        self._before = state
        self._resources = ExitStack()

    def __enter__(self) -> LiveFilm:
        memory.load_models_gpu([self.patcher], force_full_load=True)
        self._resources.enter_context(self._writer)
        try:
            say(f"The film grows in {self.path.parent}, for any player.")
            for chunk in self._before.chunks:
                interrupt_if_asked()
                self.push(chunk.latents)
        except BaseException as error:
            self._resources.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        try:
            self._resources.__exit__(kind, error, trace)
        except OSError as problem:
            self._stream = None
            say(_not_written(problem))
        self._is_whole = kind is None and self._stream is not None

    def push(self, latents: Tensor) -> list[Picture]:
        """Decode the next chunk [1, C, T, h, w], model space, and add it; pictures for the preview, eight a second.

        Without the memory or the disk for it there is no live film any more, of which the artist is told, and no
        pictures: the film itself goes on.
        """
        if self._stream is None:
            return []
        pictures: list[Picture] = []
        try:
            for frame in self._to_vae_space(latents).split(1, dim=2):
                pixels = self._stream.push(frame.to(self.patcher.load_device, self._dtype))
                frames = rearrange(pixels.float().cpu().add(1).div(2), "1 c f h w -> f h w c")
                self._writer.write(frames)
                pictures += [_picture(frame) for frame in frames[1::2]]
        except OSError as error:
            self._give_up(error, _not_written(error))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._give_up(error, NO_MEMORY)
        return pictures

    def record(self, samples: Tensor) -> Mapping[str, LiveRecord]:
        """What to add to the LATENT that holds `samples` [1, C, T, h, w]; nothing if the film is not whole."""
        if not self._is_whole:
            return {}
        return {KEY: LiveRecord(path=self.path, latents=tensor_digest(samples), vae=self._identity)}

    def _give_up(self, error: Exception, why: str) -> None:
        self._stream = None
        self._resources.__exit__(type(error), error, error.__traceback__)
        self._resources = ExitStack()
        say(why)


def _not_written(problem: OSError) -> str:
    return f"The film cannot be written while it is made ({problem}); it is made all the same, and decoded afterwards."


def decoder_identity(vae: Any) -> str:
    """What decides the pixels of a ComfyUI VAE."""
    return f"{weights_identity(vae.first_stage_model)} {vae.vae_dtype} {vae.device.type}"


def reuse_live_film(latent: Mapping[str, Any], vae: Any, target: Path, metadata: Mapping[str, str]) -> bool:
    """Copy the film that was made of this very LATENT beside the sampler to `target`, if there is one by this VAE."""
    record = latent.get(KEY)
    if not isinstance(record, LiveRecord) or not record.path.is_file():
        return False
    if record.vae != decoder_identity(vae) or record.latents != tensor_digest(latent["samples"]):
        return False
    with replacing(target) as temporary:
        make_whole(record.path, temporary, fps=FRAMES_PER_SECOND, metadata=metadata)
    return True


def _picture(frame: Tensor) -> Picture:
    """A frame H W C in [0, 1] as ComfyUI sends previews."""
    image = Image.fromarray(frame.clamp(0, 1).mul(255).round().byte().numpy())
    return "JPEG", image, latent_preview.MAX_PREVIEW_RESOLUTION
