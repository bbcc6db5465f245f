"""Keys of finished chunks: a digest of everything that decides a chunk.

A video's identity covers what holds for all of it: weights, settings, the form of its cache, seed, size, and the
environment. From there a chain runs along the video: each chunk adds its prompt embeds and its own latents. A chunk is
looked up under the chain up to it and the prompt that is active for it. So videos that begin alike share their
beginning, a later change of the prompts keeps what was made before it, and a chunk is only ever continued by what was
made from these very latents.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Tensor

from ..rollout.model_identity import ModelIdentity
from ..rollout.prompt_schedule import PromptSchedule
from ..rollout.state import Chunk, RolloutState

VERSION = 1
"""Of the sampler's arithmetic. A change of what the same settings compute must raise it."""


def tensor_digest(tensor: Tensor) -> str:
    """Hexadecimal SHA-256 of a tensor's shape, type and values, wherever it lies."""
    plain = tensor.detach().to("cpu").contiguous()
    digest = hashlib.sha256(f"{plain.dtype}{tuple(plain.shape)}".encode())
    digest.update(plain.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def video_identity(state: RolloutState, environment: Mapping[str, str]) -> str:
    """Return what all chunks of a video share, hexadecimal.

    environment: by name, what else decides the bits, such as the device and the number format of the computation.
    """
    return _digest(
        version=VERSION,
        config=asdict(state.config),
        cache_form=state.cache_form,
        seed=state.seed,
        model_id=ModelIdentity.parse(state.model_id).exact,
        shape=state.shape,
        num_given=state.num_given,
        circumstances=dict(environment),
    )


class Chain:
    """A video's identity up to the chunk that comes next."""

    def __init__(self, state: RolloutState, environment: Mapping[str, str]) -> None:
        self.video = video_identity(state, environment)
        """Hexadecimal, the same for all chunks."""
        self._texts: dict[int, tuple[Tensor, str]] = {}
        self._position = self.video
        for chunk in state.chunks:
            self.add(chunk, state)

    def add(self, chunk: Chunk, state: RolloutState) -> None:
        """Go on behind a chunk of the state."""
        self._position = _digest(
            before=self._position,
            text=self._text(state.texts[chunk.text]),
            recached=chunk.recached,
            latents=tensor_digest(chunk.latents),
        )

    def key(self, text: Tensor, *, recache: bool) -> str:
        """Return what the next chunk is known by if it follows `text` [1 or B, L, text_dim]; hexadecimal."""
        return _digest(after=self._position, text=self._text(text), recache=recache)

    def plan(self, schedule: PromptSchedule, num_chunks: int) -> str:
        """Return what `num_chunks` more chunks under a schedule are known by, hexadecimal."""
        cues = [[self._text(cue.text), cue.seconds, cue.crossfade, cue.recache] for cue in schedule.prompts]
        return _digest(after=self._position, cues=cues, num_chunks=num_chunks)

    def _text(self, text: Tensor) -> str:
        """A text's digest; the latest ones are remembered, because many chunks follow one."""
        known = self._texts.get(id(text))
        if known is None or known[0] is not text:
            known = (text, tensor_digest(text.detach().to("cpu", torch.float32)))
            self._texts = {id(text): known, **dict(list(self._texts.items())[:7])}
        return known[1]


def _digest(**parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
