"""What a rollout has made so far, as a value, and its file.

Extending a state makes a new one and leaves the old as it was. On disk it is one safetensors file with its description
as JSON in the header. Latents and prompt embeds are enough to continue bit for bit; a snapshot of the cache is written
only if the state has one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..files import parse_json, require_readable
from ..sealed_file import check_seal, write_sealed
from ..wan.config import WAN21
from .config import RolloutConfig
from .flow import MAX_SEED
from .kv_cache import KVSnapshot
from .kv_quantization import CacheForm, Quantizer, TensorSpec, codecs
from .model_identity import ModelIdentity


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chunk:
    """Latent frames that were denoised, or given, together."""

    latents: Tensor
    """Clean latents in model space, float32 on the CPU, [B, C, T, H, W]."""
    text: int
    """Which of the state's texts ruled it."""
    recached: bool = False
    """Whether what it saw of the past was re-encoded under its text; see `Rollout.set_prompt`."""

    @property
    def num_frames(self) -> int:
        """Latent frames in the chunk."""
        return self.latents.shape[2]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RolloutState:
    """Everything that decides how a video goes on.

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
    """In which form the past is kept. It decides the video's bits; where the past rests does not, and is no part of the
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
        """Return all latents so far in model space, float32 on the CPU, [B, C, T, H, W]."""
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
                f"the video has {self.num_frames} latent frames already; only an empty one can be given a start."
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
                "Connect the model, with the same LoRAs, that made it, or start a new video."
            )


def _split_leading_remainder(latents: Tensor, chunk: int) -> Iterator[Tensor]:
    remainder = latents.shape[2] % chunk
    if remainder:
        yield latents[:, :, :remainder]
    for start in range(remainder, latents.shape[2], chunk):
        yield latents[:, :, start : start + chunk]


HEADER = "sfpp_state"
FORMAT_VERSION = 3
READABLE_VERSIONS = (1, 2, 3)
"""Version 1 knows nothing of pasts that were re-encoded, and only version 3 has a checksum."""
FIRST_SEALED = 3


class StateFileError(ValueError):
    """A file that holds no usable state; the message names the file and says why."""


def save_state(state: RolloutState, path: Path) -> None:
    """Write `state` to `path`, replacing it only once the new file is complete.

    Raises OSError naming the folder if the disk is full or the folder cannot be written.
    """
    description = {
        "version": FORMAT_VERSION,
        "config": asdict(state.config),
        "seed": state.seed,
        "model_id": state.model_id,
        "shape": state.shape,
        "num_given": state.num_given,
        "cache_form": state.cache_form,
        "chunks": [
            {"num_frames": chunk.num_frames, "text": chunk.text, "recached": chunk.recached} for chunk in state.chunks
        ],
        "num_texts": len(state.texts),
        "cache": _describe_cache(state.cache),
    }
    tensors = {"latents": state.latents.contiguous()}
    tensors |= {f"text.{index}": text.contiguous() for index, text in enumerate(state.texts)}
    if state.cache:
        for layer, (keys, values) in enumerate(zip(state.cache.keys, state.cache.values, strict=True)):
            tensors |= {f"cache.{layer}.keys": keys, f"cache.{layer}.values": values}
        for layer, (keys, values) in enumerate(zip(state.cache.key_scales, state.cache.value_scales, strict=True)):
            tensors |= {f"cache.{layer}.key_scales": keys, f"cache.{layer}.value_scales": values}
    write_sealed(path, tensors, HEADER, description)


def load_state(path: Path) -> RolloutState:
    """Read a state that `save_state` wrote.

    Raises StateFileError for any other file, FileNotFoundError for none, PermissionError for one that may not be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; choose a saved state.")
    require_readable(path)
    try:
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get(HEADER)
            if header is None:
                raise StateFileError(f"{path} is no saved state; choose one that this pack saved.")
            description = parse_json(header)
            # The file is no dictionary: it has keys() and cannot be iterated.
            check_seal(description, file.keys(), file.get_tensor, required=description["version"] >= FIRST_SEALED)
            return _read(description, file.get_tensor)
    except (SafetensorError, KeyError, TypeError, ValueError) as problem:
        if isinstance(problem, StateFileError):
            raise
        raise StateFileError(f"{path} is a damaged state ({problem}); save it again or start a new video.") from problem


def _read(description: dict[str, Any], tensor: Any) -> RolloutState:
    if description["version"] not in READABLE_VERSIONS:
        versions = " and ".join(map(str, READABLE_VERSIONS))
        raise ValueError(f"its format is version {description['version']}, this program reads versions {versions}")
    shape = tuple(description["shape"])
    # Copies: what is read lies in the file's memory, at any address, and matrix products round by where tensors lie, so
    # that the video would go on a little differently. The cache is copied when it is taken up.
    chunks = _split(tensor("latents"), description["chunks"], shape)
    texts = tuple(tensor(f"text.{index}").clone() for index in range(description["num_texts"]))
    _check_texts(texts, chunks, batch=shape[0])
    state = RolloutState(
        config=RolloutConfig.from_json(description["config"]),
        seed=_whole(description, "seed", most=MAX_SEED),
        model_id=str(description["model_id"]),
        shape=shape,
        chunks=chunks,
        texts=texts,
        # Videos that were begun before there was a choice do not name it.
        cache_form=description.get("cache_form", "computed"),
    )
    return replace(
        state,
        num_given=_whole(description, "num_given", most=state.num_frames),
        cache=_read_cache(description["cache"], tensor, state),
    )


def _whole(entries: dict[str, Any], name: str, *, least: int = 0, most: int) -> int:
    value = entries[name]
    if not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} is {value!r}, which is no whole number from {least} to {most}")
    return value


def _check_texts(texts: tuple[Tensor, ...], chunks: tuple[Chunk, ...], *, batch: int) -> None:
    if any(chunk.text not in range(len(texts)) for chunk in chunks):
        raise ValueError("a chunk names a text that is not there")
    for index, text in enumerate(texts):
        if text.ndim != 3 or text.shape[0] not in (1, batch) or text.shape[2] != texts[0].shape[2]:
            raise ValueError(f"text {index} of shape {tuple(text.shape)} does not fit")
        if not bool(torch.isfinite(text).all()):
            raise ValueError(f"text {index} holds values that are not finite")


def _split(latents: Tensor, records: list[dict[str, int]], shape: tuple[int, ...]) -> tuple[Chunk, ...]:
    if latents.ndim != 5 or latents.dtype != torch.float32:
        raise ValueError(f"its latents are {latents.dtype} of shape {tuple(latents.shape)}")
    batch, channels, num_frames, height, width = latents.shape
    lengths = [_whole(record, "num_frames", least=1, most=num_frames) for record in records]
    if (batch, channels, height, width) != shape or num_frames != sum(lengths):
        raise ValueError(f"its latents of shape {tuple(latents.shape)} do not match its description")
    if not bool(torch.isfinite(latents).all()):
        raise ValueError("its latents hold values that are not finite")
    pieces = latents.split(lengths, dim=2) if lengths else ()
    return tuple(
        Chunk(
            latents=piece.clone(memory_format=torch.contiguous_format),
            text=record["text"],
            recached=record.get("recached", False),
        )
        for piece, record in zip(pieces, records, strict=True)
    )


def _describe_cache(cache: KVSnapshot | None) -> dict[str, int] | None:
    if cache is None:
        return None
    return {"num_frames": cache.num_frames, "num_layers": len(cache.keys), "skipped": cache.skipped}


def _read_cache(description: dict[str, int] | None, tensor: Any, state: RolloutState) -> KVSnapshot | None:
    if description is None:
        return None
    names = ("keys", "values", "key_scales", "value_scales") if state.cache_form == "int8" else ("keys", "values")
    columns = [tuple(tensor(f"cache.{layer}.{name}") for layer in range(description["num_layers"])) for name in names]
    for codec, side in zip(codecs(state.cache_form), (columns[::2], columns[1::2]), strict=True):
        for parts in zip(*side, strict=True):
            _check_parts(codec, parts, state)
    num_frames = _whole(description, "num_frames", most=state.num_frames)
    skipped = _whole(description, "skipped", most=num_frames) if "skipped" in description else 0
    return replace(KVSnapshot(num_frames, *columns), skipped=skipped)


def _check_parts(codec: Quantizer, parts: tuple[Tensor, ...], state: RolloutState) -> None:
    """Raise ValueError if these are not what is kept of a layer's keys, or of its values."""
    batch, _, height, width = state.shape
    tokens = WAN21.tokens_per_frame(height, width)
    first, *scales = parts
    if first.ndim != 4 or first.shape[:2] != (batch, state.config.window * tokens):
        raise ValueError("its cache is of another size than its window")
    shape = (batch, state.config.window, tokens, *first.shape[2:])
    found = (TensorSpec(shape, first.dtype), *(TensorSpec(tuple(scale.shape), scale.dtype) for scale in scales))
    if not parts[-1].is_floating_point() or found != codec.parts(shape, parts[-1].dtype):
        raise ValueError(f"its cache is not in the form {state.cache_form}")
