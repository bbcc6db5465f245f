"""Self-Forcing++ (arXiv 2510.02283, algorithm 1) on one page: `python -m training.nano_sfpp` on the built-in family.

The student rolls a video out over its rolling KV cache. A window of it is noised again and denoised with gradients,
teacher and critic say where its distribution should go (DMD), and the critic learns the student's. A test holds this
page equal to the real stage, which adds machines, precisions, one chunk's graph at a time, averages, checkpoints.
Axes: B videos, C latent channels, T latent frames, H and W latent cells. x_t = (1 - s) x0 + s noise at noise level s,
networks predict v = noise - x0 (rectified flow, arXiv 2209.03003), so x0 = x_t - s v; their clock is 1000 s.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sfpp_core.tiny.family import load_family_text_encoder, load_student, load_teacher, load_vae
from sfpp_core.wan.config import to_model_space, to_vae_space
from sfpp_core.wan.transformer import WanTransformer
from sfpp_core.wan.vae import WanVAE


@dataclass(frozen=True, kw_only=True)
class Method:
    """Settings. Lengths are latent frames; the defaults are the built-in family's."""

    chunk: int = 3  # frames that are denoised together
    attention_window: int = 21  # frames that a chunk may attend to, itself and the sink included
    sink: int = 0  # first frames of the video, which never leave the cache
    steps: tuple[float, ...] = (1000.0, 750.0, 500.0, 250.0)  # of the few-step sampler, before the shift
    shift: float = 5.0  # moves noise levels towards noise (arXiv 2403.03206, equation 23)
    judged: int = 21  # K, frames of the window that is judged: what the teacher was trained on
    rollout: int = 42  # N, frames of the longest rollout
    masked: int = 6  # first frames of a window that are encoded again and do not count
    warmup: int = 12  # frames before a window that the decoder needs to forget that it starts in the middle
    guidance: float = 2.0  # of the teacher: cond + guidance * (cond - uncond)

    def sigma(self, step: float) -> float:
        """Return the noise level of a step (0..1000) after the shift."""
        return self.shift * step / (1000 + (self.shift - 1) * step)


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Everything random of one update. Noise is unit normal."""

    noise: Callable[[int, int, tuple[int, ...]], Tensor]  # of a (chunk, step, shape), for the rollout
    start: int  # frame of the video at which the judged window begins, a multiple of the chunk
    step: int  # of the sampler, to whose noise level the window is noised again
    renoise: Tensor  # B C K H W
    score_sigma: Tensor  # [B], noise level at which teacher and critic judge
    score_noise: Tensor  # B C K H W
    critic_sigma: Tensor  # [B], noise level at which the critic learns
    critic_noise: Tensor  # B C K H W


class RollingCache:
    """Keys, rotated to their absolute frame, and values of what the next chunk may attend to: sink, latest frames."""

    def __init__(self, method: Method, num_layers: int) -> None:
        self.method, self.frames, self.end = method, [], 0
        self.layers: list[tuple[list[Tensor], ...]] = [([], []) for _ in range(num_layers)]

    def positions(self, num_frames: int) -> tuple[int, ...]:
        return tuple(range(self.end, self.end + num_frames))

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the past and the chunk's own keys and values, B tokens heads channels; the past has no gradient."""
        past = self.layers[layer][:2]
        self.layers[layer] = *past, (keys.detach(), values.detach())
        return tuple(torch.cat([*old, new], dim=1) for old, new in zip(past, (keys, values), strict=True))

    def commit(self, num_frames: int) -> None:
        """Take in the chunk that the network has just seen clean, and evict what the next one may not see."""
        frames = [*self.frames, *self.positions(num_frames)]
        self.end += num_frames
        oldest = self.end + self.method.chunk - (self.method.attention_window - self.method.sink)
        kept = [index for index, frame in enumerate(frames) if frame >= oldest or frame < self.method.sink]
        for number, (keys, values, new) in enumerate(self.layers):
            sides = ([*old, *side.chunk(num_frames, dim=1)] for old, side in zip((keys, values), new, strict=True))
            self.layers[number] = tuple([side[index] for index in kept] for side in sides)
        self.frames = [frames[index] for index in kept]


def denoise(network: WanTransformer, x: Tensor, sigma: float, text: Tensor, cache: RollingCache) -> Tensor:
    """Return x0 of a chunk x, as the network estimates it at noise level sigma beside what the cache holds."""
    return x - sigma * network(x, torch.full((x.shape[0], x.shape[2]), 1000 * sigma), text, cache=cache)


@torch.no_grad()
def remember(network: WanTransformer, x0: Tensor, text: Tensor, cache: RollingCache) -> None:
    """Show the network a finished chunk clean, so that its keys and values enter the cache."""
    denoise(network, x0, 0.0, text, cache)
    cache.commit(x0.shape[2])


@torch.no_grad()
def roll(network: WanTransformer, text: Tensor, draws: Draws, method: Method) -> tuple[Tensor, RollingCache]:
    """Return the student's video up to the window's end, B C T H W, and the cache as it was where the window begins."""
    cache, chunks, shape = RollingCache(method, len(network.blocks)), [], draws.renoise[:, :, : method.chunk].shape
    for number in range((draws.start + method.judged) // method.chunk):
        if number * method.chunk == draws.start:
            before = deepcopy(cache)
        x0 = torch.zeros(shape)
        for step, sigma in enumerate(map(method.sigma, method.steps)):  # The first is 1: nothing but noise.
            x0 = denoise(network, (1 - sigma) * x0 + sigma * draws.noise(number, step, shape), sigma, text, cache)
        remember(network, x0, text, cache)
        chunks.append(x0)
    return torch.cat(chunks, dim=2), before


def denoise_again(
    network: WanTransformer, window: Tensor, text: Tensor, draws: Draws, method: Method, cache: RollingCache
) -> Tensor:
    """Backward noise initialisation: noise the finished window again, and denoise each chunk once with gradients."""
    sigma, again = method.sigma(method.steps[draws.step]), []
    for clean, noise in zip(window.split(method.chunk, 2), draws.renoise.split(method.chunk, 2), strict=True):
        again.append(denoise(network, (1 - sigma) * clean + sigma * noise, sigma, text, cache))
        remember(network, clean, text, cache)
    return torch.cat(again, dim=2)


def as_clip(video: Tensor, x0: Tensor, vae: WanVAE, draws: Draws, method: Method) -> tuple[Tensor, Tensor]:
    """Return the window x0 as a short video that the teacher knows, and which of its frames count.

    Wan's first latent frame is one picture, later ones are four: a window's first ones are encoded again.
    """
    counts = (torch.arange(method.judged) >= method.masked * (draws.start > 0)).to(x0)[:, None, None]
    if draws.start == 0:
        return x0, counts
    past = video[:, :, max(0, draws.start - method.warmup) : draws.start]
    with torch.no_grad():
        pictures = vae.decode(to_vae_space(torch.cat([past, x0[:, :, : method.masked]], dim=2)))
        beginning = to_model_space(vae.encode(pictures[:, :, -(4 * (method.masked - 1) + 1) :]))
    return torch.cat([beginning, x0[:, :, method.masked :]], dim=2), counts


def flow_of(network: WanTransformer, x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
    """Return the flow of whole clips, each at one noise level, as bidirectional networks see them."""
    return network(x, (1000 * sigma)[:, None].expand(-1, x.shape[2]), text)


def update(
    student: WanTransformer, teacher: WanTransformer, critic: WanTransformer, vae: WanVAE, method: Method, draws: Draws,
    text: Tensor, negative: Tensor, optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer], clip_norm: float,
) -> tuple[float, float]:  # fmt: skip
    """Make one update of student and critic and return their losses. text, negative: prompt embeds, B L D."""
    video, cache = roll(student, text, draws, method)
    x0 = denoise_again(student, video[:, :, draws.start :], text, draws, method, cache)
    clip, counts = as_clip(video, x0, vae, draws, method)
    size = counts.sum() * clip[:, :, 0].numel()
    with torch.no_grad():  # Distribution matching (arXiv 2311.18828, equations 7 and 8).
        sigma = draws.score_sigma[:, None, None, None, None]
        noised = (1 - sigma) * clip + sigma * draws.score_noise
        real, unguided, fake = (
            noised - sigma * flow_of(network, noised, draws.score_sigma, prompt)
            for network, prompt in ((teacher, text), (teacher, negative), (critic, text))
        )
        real = real + method.guidance * (real - unguided)
        gradient = (fake - real) / (clip - real).abs().mean(dim=(1, 2, 3, 4), keepdim=True).clamp_min(1e-4)
    student_loss = 0.5 * ((clip - (clip - gradient).detach()).square() * counts).sum() / size
    student_loss.backward()
    # The critic: flow matching on the student's clip.
    clip, sigma = clip.detach(), draws.critic_sigma[:, None, None, None, None]
    flow = flow_of(critic, (1 - sigma) * clip + sigma * draws.critic_noise, draws.critic_sigma, text)
    critic_loss = ((flow - (draws.critic_noise - clip)).square() * counts).sum() / size
    critic_loss.backward()
    for network, optimizer in zip((student, critic), optimizers, strict=True):
        nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return student_loss.item(), critic_loss.item()


def main(updates: int = 3, batch: int = 2) -> None:
    """Teach the built-in student a few updates, and print the losses."""
    method, generator = Method(), torch.Generator().manual_seed(0)
    student, critic = load_student()[0], load_teacher()
    teacher, vae, encoder = (new().requires_grad_(False) for new in (load_teacher, load_vae, load_family_text_encoder))
    text, negative = (encoder.encode([prompt] * batch) for prompt in ("A red ball bounces slowly in the desert.", ""))
    rates = ((student, 4e-5), (critic, 1.6e-4))
    optimizers = tuple(torch.optim.AdamW(net.parameters(), lr, (0.0, 0.999), weight_decay=0.0) for net, lr in rates)
    starts = (method.rollout - method.judged) // method.chunk + 1
    for number in range(updates):
        start, step = (int(torch.randint(choices, (), generator=generator)) for choices in (starts, len(method.steps)))
        levels = method.sigma(1000 * torch.rand(2, batch, generator=generator)).clamp(0.02, 0.98)
        noises = torch.randn(3, batch, 16, method.judged, 8, 8, generator=generator)
        draws = Draws(
            noise=lambda chunk, step, shape: torch.randn(shape, generator=generator), start=method.chunk * start,
            step=step, renoise=noises[0], score_sigma=levels[0], score_noise=noises[1], critic_sigma=levels[1],
            critic_noise=noises[2],
        )  # fmt: skip
        losses = update(student, teacher, critic, vae, method, draws, text, negative, optimizers, clip_norm=10.0)
        print(f"update {number}: losses of student and critic {losses}")


if __name__ == "__main__":
    main()
