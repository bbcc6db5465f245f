"""Distribution matching (DMD, arXiv 2311.18828 and 2405.14867) for rectified flow, on clips, as in Self-Forcing.

Two bidirectional networks look at a noised clip of the student's and say what clean clip it came from: a frozen
teacher, with guidance, as its data would have it ("real"), and a critic, trained on nothing but the student's clips, as
the student would ("fake"). The student moves from the second towards the first.

Latents are B C T H W in model space. A mask of frames is boolean, [1 or B, 1, T, 1, 1], true where a frame counts. The
gradient is a small difference of large numbers, so whatever is subtracted here is float64, whatever networks compute
in. Nothing replaces a NaN: it reaches the loss, every weight's gradient and so the check of the gradient's norm, which
every rank of a run sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor

from sfpp_core.rollout.flow import NUM_TIMESTEPS, add_noise, flow_to_x0, generator_for, shift_sigma

from ..config import require

NORMALIZER_FLOOR = 1e-4
"""Least divisor of a gradient. A clip and the teacher's estimate of it differ by sigma times the error of the teacher's
flow, so at sigma 0.02 the floor acts below a mean error of 0.005; trained teachers err by a tenth or more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DMDConfig:
    """At which noise, and with what guidance, the student's clips are judged; the defaults are Self-Forcing's."""

    shift: float = 5.0
    """Moves the timesteps, uniform before, towards noise; 1 leaves them uniform."""
    lowest_timestep: float = 20.0
    """Timesteps (0..1000) below this are raised to it: nearly clean clips tell nothing."""
    highest_timestep: float = 980.0
    """Timesteps above this are lowered to it; with shift 5 that is every eleventh."""
    extra_guidance: float = 3.0
    """The teacher is asked for cond + extra_guidance * (cond - uncond). Written in the usual form, uncond + scale *
    (cond - uncond), the scale is one more: 4. With 0 it is asked once, without guidance."""

    def __post_init__(self) -> None:
        require(self.shift > 0, f"dmd.shift is {self.shift}; it must be above 0, e.g. 5.")
        low, high = self.lowest_timestep, self.highest_timestep
        require(
            0 < low < high < NUM_TIMESTEPS,
            f"dmd.lowest_timestep is {low} and dmd.highest_timestep {high}; they must rise and lie between 0 and "
            f"{NUM_TIMESTEPS}, e.g. 20 and 980.",
        )
        require(self.extra_guidance >= 0, f"dmd.extra_guidance is {self.extra_guidance}; it must be 0 or more, e.g. 3.")


class FlowNetwork(Protocol):
    """A teacher or a critic, e.g. `WanTransformer`: flow of x [B, C, T, H, W] at a timestep [B, T] for a text."""

    def __call__(self, x: Tensor, timestep: Tensor, text: Tensor) -> Tensor: ...


def score_sigmas(config: DMDConfig, seed: int, *names: str | int, samples: Sequence[int]) -> Tensor:
    """The noise level at which each sample's whole clip is judged; [len(samples)], float64, on the CPU.

    A whole timestep, uniform in 0..999, is shifted and then clamped: the median is at 833 / 1000, and with the defaults
    9.2 % are at the upper bound. samples: indices into the global batch, as for `seeding.normal`.
    """
    generators = [generator_for(seed, *names, "score sigma", sample) for sample in samples]
    timesteps = [torch.randint(NUM_TIMESTEPS, (), generator=generator) for generator in generators]
    sigmas = shift_sigma(torch.stack(timesteps).double() / NUM_TIMESTEPS, config.shift)
    return sigmas.clamp(config.lowest_timestep / NUM_TIMESTEPS, config.highest_timestep / NUM_TIMESTEPS)


def diffuse(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Noise whole clips, each to its own level sigma [B]; float64."""
    return add_noise(x0.double(), noise.double(), _per_sample(sigma, x0))


def score(network: FlowNetwork, x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
    """A network's score of noised clips x, as the clean clips x0 that it stands for; float64.

    The score itself is ((1 - sigma) x0 - x) / sigma^2. sigma: [B], one for all frames of a clip, because bidirectional
    networks know no others. text: [B, L, text_dim].
    """
    return flow_to_x0(x.double(), _flow(network, x, sigma, text).double(), _per_sample(sigma, x))


def guided_score(
    teacher: FlowNetwork, x: Tensor, sigma: Tensor, text: Tensor, negative: Tensor, *, extra_guidance: float
) -> Tensor:
    """The teacher's score, as `score` gives it, moved away from that of the negative prompt.

    cond + extra_guidance * (cond - uncond), which is classifier-free guidance (arXiv 2207.12598) of the usual scale
    1 + extra_guidance. negative: [B, L, text_dim].
    """
    conditional = score(teacher, x, sigma, text)
    if extra_guidance == 0:
        return conditional
    return conditional + extra_guidance * (conditional - score(teacher, x, sigma, negative))


def dmd_gradient(x0: Tensor, real_x0: Tensor, fake_x0: Tensor) -> Tensor:
    """Return where DMD pushes the clips x0 from: (fake - real) / mean |x0 - real|, float64 [B, C, T, H, W].

    Equations 7 and 8 of arXiv 2311.18828 in terms of clean clips. The mean is over all of a sample, frames that the
    loss masks included, and no sample feels another. Where the clip is the teacher's estimate itself, the divisor is
    NORMALIZER_FLOOR.
    """
    real = real_x0.double()
    distance = (x0.detach().double() - real).abs().mean(dim=(1, 2, 3, 4), keepdim=True)
    return (fake_x0.double() - real) / distance.clamp_min(NORMALIZER_FLOOR)


@torch.no_grad()
def judge(
    x0: Tensor,
    noise: Tensor,
    sigma: Tensor,
    *,
    teacher: FlowNetwork,
    critic: FlowNetwork,
    text: Tensor,
    negative: Tensor,
    config: DMDConfig,
) -> Tensor:
    """Noise the clips x0 and ask teacher and critic: the gradient of `dmd_gradient`, with no graph behind it."""
    x = diffuse(x0, noise, sigma)
    real = guided_score(teacher, x, sigma, text, negative, extra_guidance=config.extra_guidance)
    return dmd_gradient(x0, real, score(critic, x, sigma, text))


def dmd_loss(x0: Tensor, gradient: Tensor, mask: Tensor) -> Tensor:
    """A scalar whose gradient with respect to x0 is gradient / n in the n elements that count and 0 elsewhere.

    Its value is that of the published loss, 0.5 * mean (x0 - sg(x0 - gradient))^2. That form subtracts a small gradient
    from large latents and so loses most of it in half precision; here it is never rounded to anything but x0's dtype.
    """
    no_step = x0.double() - x0.detach().double()
    return 0.5 * masked_mean((no_step + gradient.detach()).square(), mask)


def gradient_metrics(gradient: Tensor, mask: Tensor) -> dict[str, float]:
    """Return for the log the mean size of the gradient where it counts, and how many of its entries are non-finite."""
    return {
        "dmd_gradient": masked_mean(gradient.abs(), mask).item(),
        "dmd_non_finite": float(gradient.numel() - gradient.isfinite().sum().item()),
    }


def critic_loss(critic: FlowNetwork, x0: Tensor, noise: Tensor, sigma: Tensor, text: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of the critic's flow of the student's clips x0 (arXiv 2209.03003), where frames count.

    It has no gradient for whatever made x0. sigma: [B], from `score_sigmas`.
    """
    clean = x0.detach().double()
    flow = _flow(critic, diffuse(clean, noise, sigma), sigma, text)
    return masked_mean((flow.double() - (noise.double() - clean)).square(), mask)


def masked_mean(value: Tensor, mask: Tensor) -> Tensor:
    """Mean over the elements of [B, C, T, H, W] that a mask of frames lets count; NaN wherever there is one."""
    weight = mask.to(value.dtype)
    # A product and no selection: a NaN in a masked frame is a fault too and must show.
    return (value * weight).sum() / weight.expand_as(value).sum()


def _flow(network: FlowNetwork, x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
    timestep = (sigma.to(x.device) * NUM_TIMESTEPS).float()
    return network(x.float(), timestep[:, None].expand(-1, x.shape[2]), text)


def _per_sample(sigma: Tensor, x: Tensor) -> Tensor:
    """[B] as float64 that broadcasts against B C T H W."""
    return rearrange(sigma.to(x.device, torch.float64), "b -> b 1 1 1 1")
