"""What a rollout has made so far, as a value: extending a state makes a new one and leaves the old as it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from .cache_form import CacheForm, codecs
from .config import RolloutConfig
from .kv_cache import KVSnapshot
from .model_identity import ModelIdentity


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chunk:
    """Latent frames that were denoised, or given, together."""

    latents: Tensor
    """Clean latents in model space, float32 on the CPU, [B, C, T, H, W]."""
    text: int
    """Which of the state's texts ruled it."""
    recached: bool = False
    """Whether what it saw of the past was encoded anew under its text; see `Rollout.direct`."""

    @property
    def num_frames(self) -> int:
        """Latent frames in the chunk."""
        return self.latents.shape[2]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RolloutState:
    """Everything that decides how a film goes on.

    The clean latents and the texts are enough: the cache is rebuilt from them by one network call a chunk. A snapshot
    of the cache saves those calls, at the price of its memory.
    """

    config: RolloutConfig
    seed: int
    model_id: str
    """Identity of the weights, a written ModelIdentity; a state only continues on the model that made it."""
    shape: tuple[int, int, int, int]
    """Batch, latent channels, latent height, latent width."""
    num_given: int = 0
    """Leading latent frames that were given rather than generated."""
    chunks: tuple[Chunk, ...] = ()
    texts: tuple[Tensor, ...] = ()
    """Embeddings of the prompts used so far, [1 or B, L, text_dim] on the CPU."""
    cache_form: CacheForm = "computed"
    """In which form the past is kept. It decides the film's bits; where the past rests does not, and is no part of the
    state. Not a setting of `config`, which says what a student was trained for: this is how it is run."""
    cache: KVSnapshot | None = None

    def __post_init__(self) -> None:
        codecs(self.cache_form)

    def __repr__(self) -> str:
        batch, _, height, width = self.shape
        return f"RolloutState({self.num_frames} latent frames of {height}x{width}, batch {batch}, seed {self.seed})"

    @property
    def num_frames(self) -> int:
        """Latent frames so far, given ones included."""
        return sum(chunk.num_frames for chunk in self.chunks)

    @property
    def latents(self) -> Tensor:
        """All latents so far in model space, float32 on the CPU, [B, C, T, H, W]."""
        if not self.chunks:
            batch, channels, height, width = self.shape
            return torch.empty(batch, channels, 0, height, width)
        return torch.cat([chunk.latents for chunk in self.chunks], dim=2)

    def with_text(self, text: Tensor) -> tuple[RolloutState, int]:
        """The state that knows `text` [1 or B, L, text_dim], and its index; an equal text is kept only once."""
        text = text.detach().to("cpu", torch.float32)
        for index, known in enumerate(self.texts):
            if known.shape == text.shape and torch.equal(known, text):
                return self, index
        return replace(self, texts=(*self.texts, text)), len(self.texts)

    def with_chunk(self, latents: Tensor, text: int, *, recached: bool = False) -> RolloutState:
        """The state after one more chunk [B, C, T, H, W]; the cache snapshot, now behind, is kept."""
        chunk = Chunk(latents=latents.detach().to("cpu", torch.float32), text=text, recached=recached)
        return replace(self, chunks=(*self.chunks, chunk))

    def before(self, num_frames: int) -> RolloutState:
        """The state without the chunks that begin at latent frame `num_frames` or later, and without a snapshot."""
        starts = accumulate((chunk.num_frames for chunk in self.chunks), initial=0)
        kept = (chunk for chunk, start in zip(self.chunks, starts, strict=False) if start < num_frames)
        return replace(self, chunks=tuple(kept), cache=None)

    def with_given(self, latents: Tensor, text: Tensor) -> RolloutState:
        """The state that starts from given latents [B, C, T, H, W] in model space instead of from noise.

        They are cut so that the last chunks are whole: one frame (an image) or a remainder comes first, alone.
        Raises ValueError if frames were made already or if the shape differs from the state's.
        """
        if self.chunks:
            raise ValueError(
                f"the film has {self.num_frames} latent frames already; only an empty one can be given a start."
            )
        batch, channels, num_frames, height, width = latents.shape
        if (batch, channels, height, width) != self.shape or num_frames < 1:
            raise ValueError(
                f"the start has shape {tuple(latents.shape)}; expected batch, channels, frames, height, width of "
                f"{self.shape[:2]}, at least 1, {self.shape[2:]}."
            )
        state, index = self.with_text(text)
        for piece in _split_leading_remainder(latents, self.config.chunk):
            state = state.with_chunk(piece, index)
        return replace(state, num_given=num_frames)

    def with_cache_form(self, form: CacheForm) -> RolloutState:
        """The state that goes on with its past kept in `form`: all of it, as if it had been from the beginning.

        Raises ValueError for an unknown form.
        """
        return self if form == self.cache_form else replace(self, cache_form=form, cache=None)

    def require_model(self, model_id: str) -> None:
        """Raise ValueError if the state was made by other weights than `model_id`, in whatever form these are."""
        if not ModelIdentity.parse(self.model_id).is_same_model(ModelIdentity.parse(model_id)):
            raise ValueError(
                f"this state was made by another model ({self.model_id[:12]}, not {model_id[:12]}). "
                "Connect the model, with the same LoRAs, that made it, or start a new film."
            )


def _split_leading_remainder(latents: Tensor, chunk: int) -> Iterator[Tensor]:
    remainder = latents.shape[2] % chunk
    if remainder:
        yield latents[:, :, :remainder]
    for start in range(remainder, latents.shape[2], chunk):
        yield latents[:, :, start : start + chunk]
