"""The chunk loop of Self-Forcing's few-step causal sampler with a rolling KV cache (arXiv 2506.08009, algorithm 2).

Per chunk: from noise, at each timestep predict x0 against the cache and, but for the last step, re-noise it to the
next timestep. A finished chunk enters the cache by one more pass at the context timestep, made when the next chunk
needs it. So a rollout that ends, is extended, saved, or rebuilt from its latents makes the very same calls.

`prefill_plan` plans the clean passes that rebuild a cache (`PrefillPlan`), `Rollout` runs them and denoises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, count
from typing import Protocol

import torch
from torch import Tensor

from ..wan.config import WAN21, WanConfig
from ..wan.transformer import KeyValueCache, TextContext
from .flow import NUM_TIMESTEPS, NoiseSource, SeededNoise, add_noise, flow_to_x0
from .kv_cache import AllocateMemory, RollingKVCache
from .state import Chunk, RolloutState


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrefillStep:
    """A finished chunk's clean pass."""

    start: int
    """Its first latent frame."""
    chunk: Chunk
    text: int
    """Which of the state's texts it is encoded under."""

    @property
    def end(self) -> int:
        """The latent frame after its last."""
        return self.start + self.chunk.num_frames


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrefillPlan:
    """The steps that fill an empty cache, in order."""

    recache_point: int
    """Index of the chunk before which the past was last re-encoded; 0 if it never was."""
    origin: int
    """Latent frame before which the cache is shown the sink alone; 0 for none."""
    steps: tuple[PrefillStep, ...]

    def since(self, num_frames: int) -> PrefillPlan:
        """Return what is left for a cache that has been shown everything before latent frame `num_frames`."""
        left = tuple(step for step in self.steps if step.start >= num_frames)
        return replace(self, steps=left)

    def relevant(self, oldest: int, sink: int) -> PrefillPlan:
        """Leave out what changes no bit any more: chunks that end before `oldest` and hold no part of the sink."""
        left = tuple(step for step in self.steps if step.start < sink or step.end > oldest)
        return replace(self, steps=left)


def prefill_plan(state: RolloutState, *, recaching_for: int | None = None) -> PrefillPlan:
    """Plan the clean passes that show an empty cache the past as the next chunk sees it.

    recaching_for: the text under which it is to be re-encoded for the next chunk; None if it is not.
    """
    starts = list(accumulate((chunk.num_frames for chunk in state.chunks), initial=0))
    own = [
        PrefillStep(start=start, chunk=chunk, text=chunk.text)
        for start, chunk in zip(starts, state.chunks, strict=False)
    ]
    recache_point = _latest_recache(state, recaching_for)
    if recache_point == 0:
        return PrefillPlan(recache_point=0, origin=0, steps=tuple(own))
    if recache_point < len(own):
        text, num_frames = own[recache_point].text, own[recache_point].chunk.num_frames
    else:
        text, num_frames = recaching_for, state.config.chunk_frames(starts[recache_point])
    oldest_seen = starts[recache_point] - (state.config.window - state.config.sink - num_frames)
    sink = [step for step in own[:recache_point] if step.start < state.config.sink]
    seen = [step for step in own[len(sink) : recache_point] if step.end > oldest_seen]
    reencoded = [replace(step, text=text) for step in (*sink, *seen)]
    first_seen = seen[0].start if seen else starts[recache_point]
    origin = first_seen if len(sink) + len(seen) < recache_point else 0
    return PrefillPlan(recache_point=recache_point, origin=origin, steps=(*reencoded, *own[recache_point:]))


def _latest_recache(state: RolloutState, recaching_for: int | None) -> int:
    if recaching_for is not None and state.chunks:
        return len(state.chunks)
    return max((index for index, chunk in enumerate(state.chunks) if chunk.recached), default=0)


class CausalNetwork(Protocol):
    """The student as the rollout sees it: `WanTransformer`, or a host's model behind the same two calls."""

    config: WanConfig

    def embed_text(self, text: Tensor) -> TextContext: ...

    def __call__(
        self, x: Tensor, timestep: Tensor, text: Tensor | TextContext, *, cache: KeyValueCache | None
    ) -> Tensor: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CallProgress:
    """The progress within a chunk after a network call."""

    chunk: int
    """The chunk's place in the video, from 0; given ones count."""
    call: int
    """Network calls made for it."""
    num_calls: int
    """Network calls that it takes, those that bring the cache up to it included."""
    x0: Tensor | None
    """The chunk as now estimated, model space, [B, C, T, H, W]; None while the past is replayed."""
    noised: Tensor | None
    """What the network was given to estimate it, at `timestep`; None while the past is replayed."""
    timestep: float
    """0..1000."""


OnCall = Callable[[CallProgress], None]
Report = Callable[..., None]
"""Told after a network call: timestep and, while denoising, what the network was given and x0."""


def _ignore(progress: CallProgress) -> None:
    del progress


def _unreported(timestep: float) -> None:
    del timestep


class Rollout:
    """Continues a state chunk by chunk.

    `state` grows with every finished chunk, always as a new value; the state that was given is never changed.
    """

    def __init__(
        self,
        network: CausalNetwork,
        state: RolloutState,
        text: Tensor,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        noise: NoiseSource | None = None,
        cache_memory: AllocateMemory | None = None,
        on_call: OnCall = _ignore,
    ) -> None:
        """text: prompt embeds [1 or B, L, text_dim] of the chunks to come. dtype: what the network computes in.

        noise: where noise comes from, the state's seed by default. cache_memory: makes the CPU memory that the cache
        is to rest in, which changes no bit of the video; by default it rests on the device. on_call: told after every
        network call; what it raises (a host's interrupt) ends the run, and `state` still holds every finished chunk.
        Raises ValueError if the text's width is not the network's or its batch neither 1 nor the state's.
        """
        self._network = network
        self._device = torch.device(device)
        self._dtype = dtype
        self._noise = noise or SeededNoise(state.seed)
        self._cache_memory = cache_memory
        self._on_call = on_call
        self._check_text(text, state)
        self.state, self._text = state.with_text(text)
        self._contexts: dict[int, TextContext] = {}
        self._recaches = False
        self._cache: RollingKVCache | None = None
        self._recache_point: int | None = None
        """The recache point that the cache was filled from; None while it is being filled again."""

    def set_prompt(self, text: Tensor, *, recache: bool = False) -> None:
        """Have the chunks to come follow `text`, prompt embeds [1 or B, L, text_dim].

        recache: re-encode what the next chunk sees of the past, under this text and as if nothing had been before it
        but the sink. The old text then fades with what is seen of it, not with what was remembered (KV re-cache,
        LongLive, arXiv 2509.22622). Raises ValueError as the constructor.
        """
        self._check_text(text, self.state)
        self.state, self._text = self.state.with_text(text)
        self._recaches = recache and bool(self.state.chunks)
        if self._recache_point == len(self.state.chunks):
            # What was re-encoded for the next chunk may have been under another text.
            self._recache_point = None

    def run(self, num_chunks: int) -> Iterator[Chunk]:
        """Generate `num_chunks` (at least 1) more chunks, yielding each as it is finished."""
        if num_chunks < 1:
            raise ValueError(f"num_chunks is {num_chunks}; a run makes at least 1 chunk.")
        for _ in range(num_chunks):
            yield self._make()

    def append(self, latents: Tensor) -> Chunk:
        """Take the next chunk [B, C, T, H, W], model space, as made; it enters the cache when it is needed there."""
        self.state = self.state.with_chunk(latents, self._text, recached=self._recaches)
        self._recaches = False
        return self.state.chunks[-1]

    def past(self) -> RollingKVCache:
        """The cache with every chunk made so far in it: what the next chunk is denoised against."""
        self._catch_up(self._missing(), _unreported)
        return self._cache

    def keep_cache(self) -> RolloutState:
        """The state together with a snapshot of the cache, so that continuing it needs no replay.

        Without one if the cache is ahead of the state: re-encoded for a chunk that has not been made.
        """
        if self._cache is None or self._recache_point != prefill_plan(self.state).recache_point:
            return self.state
        return replace(self.state, cache=self._cache.snapshot())

    def _make(self) -> Chunk:
        """The next chunk, from noise."""
        missing = self._missing()
        num_calls, calls = len(missing.steps) + len(self._timesteps()), count(1)

        def report(timestep: float, noised: Tensor | None = None, x0: Tensor | None = None) -> None:
            self._on_call(
                CallProgress(
                    chunk=len(self.state.chunks),
                    call=next(calls),
                    num_calls=num_calls,
                    x0=x0,
                    noised=noised,
                    timestep=timestep,
                )
            )

        self._catch_up(missing, report)
        return self.append(self._denoise(report))

    def _missing(self) -> PrefillPlan:
        """Return what the cache lacks and the next chunk can feel."""
        self._open_cache()
        past = prefill_plan(self.state, recaching_for=self._text if self._recaches else None)
        past = past.relevant(self._oldest_relevant_frame(), self.state.config.sink)
        return past.since(self._cache.num_frames) if past.recache_point == self._recache_point else past

    def _catch_up(self, missing: PrefillPlan, report: Report) -> None:
        """Show the cache what it lacks."""
        is_recached = missing.recache_point != self._recache_point
        if is_recached:
            # Until all is re-encoded the cache is of no use, also to a run that begins after an interrupt.
            self._recache_point = None
            self._cache.clear()
        for step in missing.steps:
            if is_recached and step.start >= missing.origin:
                self._begin_at(missing.origin)
            self._cache.seek(step.start)
            report(self._commit(step, given=step.start < self.state.num_given))
        if is_recached:
            self._begin_at(missing.origin)
        self._recache_point = missing.recache_point

    def _begin_at(self, origin: int) -> None:
        """Leave out what lies between the sink and latent frame `origin`, if that is still to come."""
        if self._cache.num_frames < origin:
            self._cache.start_at(origin)

    def _denoise(self, report: Report) -> Tensor:
        """Denoise the next chunk; [B, C, T, H, W] in model space, float32."""
        batch, channels, height, width = self.state.shape
        shape = (batch, channels, self.state.config.chunk_frames(self.state.num_frames), height, width)
        index = len(self.state.chunks)
        x0 = None
        for step, timestep in enumerate(self._timesteps()):
            noise = self._noise(index, step, shape).to(self._device)
            sigma = timestep / NUM_TIMESTEPS
            x = noise if x0 is None else add_noise(x0, noise, sigma)
            x0 = flow_to_x0(x, self._call(x, timestep, self._context(self._text)), sigma)
            report(timestep, x, x0)
        return x0

    def _timesteps(self) -> tuple[float, ...]:
        """Timesteps of the next chunk."""
        config = self.state.config
        is_first = self.state.num_frames == self.state.num_given
        return config.first_chunk_timesteps if is_first else config.timesteps

    def _commit(self, step: PrefillStep, *, given: bool) -> float:
        """The clean pass: write a finished chunk's keys and values to the cache. Given frames are told to be clean.

        Returns the timestep that the network was told.
        The past has no gradient, but the text's keys and values serve the chunks to come as well and keep theirs.
        """
        timestep = 0.0 if given else self.state.config.context_noise
        text = self._context(step.text)
        with torch.no_grad():
            self._call(step.chunk.latents.to(self._device), timestep, text)
        self._cache.commit(step.chunk.num_frames)
        return timestep

    def _call(self, x: Tensor, timestep: float, text: TextContext) -> Tensor:
        timesteps = torch.full((x.shape[0], x.shape[2]), timestep, device=self._device, dtype=torch.float32)
        flow = self._network(x.to(self._dtype), timesteps, text, cache=self._cache)
        return flow.float()

    def _context(self, text: int) -> TextContext:
        if text not in self._contexts:
            embedding = self.state.texts[text].to(self._device, self._dtype)
            # Only one text is ruling at a time, and its keys and values are large: keep no more than that.
            self._contexts = {text: self._network.embed_text(embedding.expand(self.state.shape[0], -1, -1))}
        return self._contexts[text]

    def _open_cache(self) -> None:
        if self._cache is None:
            batch, _, height, width = self.state.shape
            self._cache = RollingKVCache(
                self._network.config,
                self.state.config,
                batch=batch,
                tokens_per_frame=WAN21.tokens_per_frame(height, width),
                device=self._device,
                dtype=self._dtype,
                form=self.state.cache_form,
                cpu_memory=self._cache_memory,
            )
            self._recache_point = 0
            if self.state.cache is not None:
                self._cache.restore(self.state.cache)
                self._recache_point = prefill_plan(self.state.before(self.state.cache.num_frames)).recache_point
                self.state = replace(self.state, cache=None)

    def _oldest_relevant_frame(self) -> int:
        """Oldest rolling frame that keys and values still in the window depend on.

        A frame's keys in layer l come from what layers below saw, each reaching one window further back; layer 0 sees
        nothing but the frame. Frames before that cannot change a bit of what follows, except as part of the sink. The
        latest frame always counts, even if only the sink is visible: the cache must end where the video does.
        """
        config = self.state.config
        reach = config.window - config.sink - 1
        return self.state.num_frames - max(1, self._network.config.num_layers * reach)

    def _check_text(self, text: Tensor, state: RolloutState) -> None:
        width = self._network.config.text_dim
        if text.ndim != 3 or text.shape[-1] != width:
            raise ValueError(
                f"the text has shape {tuple(text.shape)}; this model expects embeddings {width} wide, "
                f"[batch, tokens, {width}]. Use the text encoder that belongs to the model."
            )
        if text.shape[0] not in (1, state.shape[0]):
            raise ValueError(
                f"the text holds {text.shape[0]} prompts for a batch of {state.shape[0]} videos; "
                f"give 1 or {state.shape[0]}."
            )
