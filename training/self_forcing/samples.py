"""Windows of the student's own videos, made what teacher and critic can judge.

Backward noise initialisation is that of algorithm 1 of Self-Forcing++ (arXiv 2510.02283): a finished window is noised
again to one of the student's timesteps and denoised once more, all of its chunks in one parallel pass. Each chunk sees
the clean chunks before it, those of the window beside it and those before the window in the cache. What is clean comes
from the rollout and has no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import repeat
from torch import Tensor

from sfpp_core.rollout.flow import NUM_TIMESTEPS, add_noise, flow_to_x0, generator_for
from sfpp_core.rollout.kv_cache import RollingKVCache
from sfpp_core.wan.attention import num_past, teacher_forcing
from sfpp_core.wan.config import WAN21
from sfpp_core.wan.transformer import WanTransformer
from sfpp_core.wan.vae import WanVAE

from ..data.prompt_embeds import Conditioning
from ..engine.distributed import rollout_weights
from ..engine.seeding import normal
from .config import SfppStageConfig
from .rollouts import RecordedWindow, Restarting, Rolled, RolloutPlan, Streaming, WindowSource
from .windows import Clip, as_clip


@dataclass(frozen=True, slots=True, eq=False)
class _WindowPast:
    """The cache of the frames before a window, beside which the window lies twice: what of it is past, then noised."""

    cache: RollingKVCache
    beside: tuple[int, ...]
    """Absolute indices of the frames that lie there."""
    clean_tokens: int

    def positions(self, num_frames: int) -> tuple[int, ...]:
        return self.beside[:num_frames]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        past = self.cache.contents(layer)
        return tuple(self._beside(old, new) for old, new in zip(past, (keys, values), strict=True))

    def _beside(self, past: Tensor, window: Tensor) -> Tensor:
        clean, noised = window[:, : self.clean_tokens], window[:, self.clean_tokens :]
        return torch.cat([past.to(window.dtype), clean.detach(), noised], dim=1)


def denoise_again(network: WanTransformer, recording: RecordedWindow, noise: Tensor, timestep: float) -> Tensor:
    """x0 of the recorded frames, noised to `timestep` (0..1000) and denoised once; float32 [B, C, T, H, W].

    With gradients on it has one, through the noised frames alone.
    """
    videos, config = recording.videos, recording.before.config
    rollout = videos.rollout(network, recording.before)
    with torch.no_grad():
        cache = rollout.past()
    frames = range(recording.before.num_frames, recording.after.num_frames)
    clean = recording.after.latents[:, :, frames.start :].to(videos.device)
    count = num_past(len(frames), chunk=config.chunk)
    sigma = timestep / NUM_TIMESTEPS
    noised = add_noise(clean, noise.to(videos.device), sigma)
    timesteps = torch.tensor([config.context_noise] * count + [timestep] * len(frames), device=videos.device)
    past = _WindowPast(cache, (*frames[:count], *frames), count * WAN21.tokens_per_frame(*clean.shape[-2:]))
    flow = network(
        torch.cat([clean[:, :, :count], noised], dim=2).to(videos.dtype),
        repeat(timesteps, "t -> b t", b=len(clean)),
        videos.text.to(videos.device, videos.dtype),
        cache=past,
        visibility=teacher_forcing(
            frames, chunk=config.chunk, window=config.window, sink=config.sink, past=cache.visible_frames()
        ),
    )
    return flow_to_x0(noised, flow[:, :, count:].float(), sigma)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JudgedClips:
    """The part of a batch, or of a part of it, that teacher and critic get to see."""

    clip: Clip
    """Where the networks are."""
    text: Tensor
    """[B, L, text_dim], in the same place."""
    samples: range
    """Which ones of the global batch these are."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """A window of the student's."""

    rolled: Rolled
    x0: Tensor
    """The recorded frames as they are judged, [B, C, T, H, W]; in the renoised reading they may have a graph."""
    judged: JudgedClips
    """The window that ends with them, as short videos of their own."""


class WindowSampler:
    """Rolls windows of some of a batch's videos."""

    def __init__(
        self, config: SfppStageConfig, conditioning: Conditioning, vae: WanVAE, *, samples: range, channels: int
    ) -> None:
        """samples: which ones of the global batch. channels: latent channels."""
        self._config, self._vae, self._samples = config, vae, samples
        stage = RolloutPlan(
            conditioning=conditioning,
            config=config.student.rollout(),
            window=config.window,
            seed=config.seed,
            samples=samples,
            size=config.latent_size,
            channels=channels,
            device=config.device,
            dtype=config.compute_dtype,
            all_steps=config.gradient_step == "all",
        )
        self._source: WindowSource = Streaming(stage) if config.history == "streaming" else Restarting(stage)

    def sample(self, network: WanTransformer, step: int, *names: str | int, with_gradient: bool = False) -> Sample:
        """The next window of the student's in a step; names tell one of its windows from another.

        with_gradient: whether the student is to learn from it.
        """
        config = self._config
        dropped = self._dropped_steps(step, *names)
        is_chain = config.reading == "chain"
        with rollout_weights(network, config), config.autocast():
            rolled = self._source.roll(network, step, *names, dropped_steps=dropped if is_chain else 0)
        video, first = rolled.recording.after.latents, rolled.recording.before.num_frames
        x0 = video[:, :, first:]
        if not is_chain:
            noise = normal(x0.shape[1:], config.seed, "renoise", step, *names, samples=self._samples)
            timestep = config.student.rollout().timesteps[-1 - dropped]
            with config.autocast(), torch.set_grad_enabled(with_gradient):
                x0 = denoise_again(network, rolled.recording, noise, timestep)
            video = torch.cat([video[:, :, :first], x0.detach().to(video)], dim=2)
        return Sample(rolled=rolled, x0=x0, judged=self._judged(rolled, video))

    def state(self) -> dict[str, Any]:
        """Videos that go on from step to step."""
        return self._source.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._source.restore(state)

    def _judged(self, rolled: Rolled, video: Tensor) -> JudgedClips:
        config, window = self._config, rolled.window
        frames = video[:, :, window.with_warmup].to(config.device)
        clip = as_clip(frames, self._vae, window, masked_frames=config.window.masked_frames)
        is_new = torch.arange(window.frames, device=clip.mask.device) >= rolled.num_old
        return JudgedClips(
            clip=replace(clip, mask=clip.mask & is_new[None, None, :, None, None]),
            text=rolled.recording.videos.text.to(config.device),
            samples=self._samples,
        )

    def _dropped_steps(self, step: int, *names: str | int) -> int:
        """Return how many last denoising steps the gradient leaves out: the same in all processes."""
        if self._config.gradient_step != "random":
            return 0
        choices = len(self._config.student.steps)
        return int(torch.randint(choices, (), generator=generator_for(self._config.seed, "exit", step, *names)))
