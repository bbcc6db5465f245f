"""Distribution matching: every formula against one written separately, and what must not leak where."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfpp_core.rollout.flow import shift_sigma
from sfpp_core.wan.config import WanConfig
from sfpp_core.wan.transformer import WanTransformer
from training.config import ConfigError
from training.engine.seeding import normal
from training.self_forcing.dmd import (
    NORMALIZER_FLOOR,
    DMDConfig,
    critic_loss,
    diffuse,
    dmd_gradient,
    dmd_loss,
    gradient_metrics,
    guided_score,
    judge,
    score,
    score_sigmas,
)

SHAPE = (2, 4, 3, 2, 2)
ALL = torch.ones(1, 1, SHAPE[2], 1, 1, dtype=torch.bool)
NOT_FIRST = ALL.clone()
NOT_FIRST[:, :, 0] = False
TEXT, NEGATIVE = torch.full((2, 1, 1), 0.5), torch.full((2, 1, 1), -0.25)


class TwoLayers(nn.Module):
    """A network small enough for finite differences: cells through a hidden layer, moved by timestep and text."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        channels = SHAPE[1]
        self.first = nn.Parameter(0.5 * torch.randn(channels + 2, 8, generator=generator, dtype=torch.float64))
        self.second = nn.Parameter(0.5 * torch.randn(8, channels, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        cells = x.double().movedim(1, -1)
        clock = (timestep.double() / 1000)[:, :, None, None, None].expand(*cells.shape[:-1], 1)
        words = text.double().mean(dim=(1, 2))[:, None, None, None, None].expand(*cells.shape[:-1], 1)
        hidden = torch.tanh(torch.cat([cells, clock, words], dim=-1) @ self.first)
        return (hidden @ self.second).movedim(-1, 1)


class Normals(nn.Module):
    """Of every number a normal law, or one of several, equally likely, whose score is known."""

    def __init__(self, means: list[float], deviations: list[float]) -> None:
        super().__init__()
        self.means, self.deviations = (nn.Parameter(torch.tensor(values)) for values in (means, deviations))

    def forward(self, x: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        """The flow E[noise - x0 | x]; the laws have an axis of their own, the last."""
        sigma = timestep[:, None, :, None, None, None] / 1000
        off, spread = x[..., None] - (1 - sigma) * self.means, (1 - sigma) ** 2 * self.deviations**2 + sigma**2
        share = torch.softmax(-0.5 * (off**2 / spread + spread.log()), dim=-1)
        x0 = (share * (self.means + (1 - sigma) * self.deviations**2 / spread * off)).sum(dim=-1)
        return (x - x0) / sigma[..., 0]


def noise(name: str, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return normal(shape[1:], 5, name, samples=range(shape[0])).double()


def finite_difference(value: Callable[[], Tensor], weight: Tensor, step: float = 1e-5) -> Tensor:
    """Central differences of a scalar with respect to every entry of a weight."""
    slopes = torch.zeros_like(weight)
    with torch.no_grad():
        for index in np.ndindex(*weight.shape):
            ends = []
            for sign in (1, -1):
                weight[index] += sign * step
                ends.append(value().item())
                weight[index] -= sign * step
            slopes[index] = (ends[0] - ends[1]) / (2 * step)
    return slopes


def test_score_timesteps_are_uniform_then_shifted_then_clamped() -> None:
    sigmas = score_sigmas(DMDConfig(), 3, "critic", 0, samples=range(20_000))
    assert sigmas.shape == (20_000,) and sigmas.min() == 0.02 and sigmas.max() == 0.98
    assert sigmas.median().item() == pytest.approx(0.8333, abs=0.01)
    # 92 of the 1000 timesteps land at the upper bound or above, 5 at the lower or below.
    assert (sigmas == 0.98).double().mean().item() == pytest.approx(0.092, abs=0.008)
    assert (sigmas == 0.02).double().mean().item() == pytest.approx(0.005, abs=0.002)
    before = 1000 * sigmas / (5 - 4 * sigmas)
    inside = before[(sigmas > 0.02) & (sigmas < 0.98)]
    assert (inside - inside.round()).abs().max() < 1e-9
    counts = torch.histc(inside, bins=9, min=5, max=905)
    expected = len(sigmas) * 100 / 1000
    assert (((counts - expected) ** 2) / expected).sum() < 26.1, "chi-square, 8 degrees of freedom, p = 0.001"


def test_a_sample_is_judged_at_its_own_noise_whoever_handles_it() -> None:
    together = score_sigmas(DMDConfig(), 3, "dmd", 7, samples=range(8))
    assert torch.equal(score_sigmas(DMDConfig(), 3, "dmd", 7, samples=range(4, 8)), together[4:])
    assert len(set(together.tolist())) > 4
    assert not torch.equal(score_sigmas(DMDConfig(), 3, "dmd", 8, samples=range(8)), together)
    unshifted = score_sigmas(DMDConfig(shift=1.0), 3, "dmd", 7, samples=range(8))
    assert torch.equal(shift_sigma(unshifted, 5.0).clamp(0.02, 0.98), together)


def test_the_true_velocity_gives_back_the_clip_at_every_noise_level() -> None:
    x0, eps = 3 * noise("x0"), noise("noise")
    seen = []

    def truth(x: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        seen.append((x, timestep))
        return (eps - x0).float()

    for level in (0.02, 0.3, 0.8333, 0.98):
        sigma = torch.tensor([level, 0.5], dtype=torch.float64)
        x = diffuse(x0, eps, sigma)
        np.testing.assert_allclose(x[0], (1 - level) * x0[0] + level * eps[0], atol=1e-14)
        assert (score(truth, x, sigma, TEXT) - x0).abs().max() < 1e-6
        shown, timestep = seen.pop()
        assert shown.dtype == timestep.dtype == torch.float32
        assert timestep.shape == (2, SHAPE[2]) and torch.all(timestep == timestep[:, :1])
        assert timestep[:, 0].tolist() == pytest.approx([1000 * level, 500.0], abs=1e-3)


def test_extra_guidance_of_three_is_the_usual_four() -> None:
    teacher, x, sigma = TwoLayers(1), noise("x"), torch.tensor([0.3, 0.9])
    cond, uncond = score(teacher, x, sigma, TEXT), score(teacher, x, sigma, NEGATIVE)
    assert (cond - uncond).abs().max() > 1e-3
    guided = guided_score(teacher, x, sigma, TEXT, NEGATIVE, extra_guidance=DMDConfig().extra_guidance)
    assert torch.allclose(guided, uncond + 4 * (cond - uncond), atol=1e-12)
    assert torch.equal(guided_score(teacher, x, sigma, TEXT, NEGATIVE, extra_guidance=0.0), cond)


def gradient_by_hand(x0: Tensor, real: Tensor, fake: Tensor) -> np.ndarray:
    out = np.zeros(x0.shape)
    for sample, (x, r, f) in enumerate(zip(x0.numpy(), real.numpy(), fake.numpy(), strict=True)):
        out[sample] = (f - r) / (np.abs(x - r).sum() / x.size)
    return out


def test_the_gradient_is_fake_minus_real_over_the_distance_of_each_sample() -> None:
    x0, real, fake = noise("x0"), noise("real"), noise("fake")
    np.testing.assert_allclose(dmd_gradient(x0, real, fake), gradient_by_hand(x0, real, fake), rtol=1e-12)
    larger = dmd_gradient(x0 * torch.tensor([9.0, 1.0])[:, None, None, None, None], real, fake)
    assert torch.equal(larger[1], dmd_gradient(x0, real, fake)[1]), "sample 1 does not feel how large sample 0 is"
    assert not torch.allclose(larger[0], dmd_gradient(x0, real, fake)[0])


def test_the_divisor_has_a_floor_and_agreement_gives_exactly_nothing() -> None:
    x0, fake = noise("x0"), noise("fake")
    assert not dmd_gradient(x0, fake, fake).any()
    assert not dmd_gradient(x0, x0, x0).any()
    assert torch.equal(dmd_gradient(x0, x0, fake), (fake - x0) / NORMALIZER_FLOOR)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_broken_estimate_shows_everywhere(broken: float) -> None:
    """Even in a frame that no loss counts: the gradient, the loss, the student and the log all have it."""
    x0, fake = noise("x0").requires_grad_(), noise("fake")
    fake[0, 1, 0, 0, 0] = broken
    gradient = dmd_gradient(x0, noise("real"), fake)
    loss = dmd_loss(x0, gradient, NOT_FIRST)
    loss.backward()
    assert not loss.isfinite() and not x0.grad.isfinite().all()
    assert gradient_metrics(gradient, NOT_FIRST)["dmd_non_finite"] == 1
    assert not np.isfinite(gradient_metrics(gradient, NOT_FIRST)["dmd_gradient"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mask", [ALL, NOT_FIRST, torch.cat([ALL, NOT_FIRST])], ids=["all", "frames", "samples"])
def test_the_loss_hands_the_student_the_gradient_over_what_counts(dtype: torch.dtype, mask: Tensor) -> None:
    x0 = noise("x0").to(dtype).requires_grad_()
    gradient = 1e-3 * noise("gradient")
    loss = dmd_loss(x0, gradient, mask)
    loss.backward()
    counts = mask.expand(SHAPE).numpy()
    wanted = np.where(counts, gradient.numpy(), 0) / counts.sum()
    rounding = {torch.float64: 1e-15, torch.float32: 1e-7, torch.bfloat16: 2**-8}[dtype]
    np.testing.assert_allclose(x0.grad.double(), wanted, rtol=rounding, atol=0)
    np.testing.assert_allclose(x0.grad.double(), wanted, rtol=0, atol=1e-6)
    assert not x0.grad[torch.from_numpy(~counts)].any()
    assert loss.item() == pytest.approx(0.5 * (gradient.numpy()[counts] ** 2).mean(), rel=1e-12)
    assert gradient_metrics(gradient, mask)["dmd_gradient"] == pytest.approx(np.abs(gradient.numpy()[counts]).mean())


def test_the_loss_is_the_published_one_where_that_is_exact() -> None:
    gradient = noise("gradient")
    ours, published = noise("x0").requires_grad_(), noise("x0").requires_grad_()
    loss = dmd_loss(ours, gradient, ALL)
    reference = 0.5 * nn.functional.mse_loss(published, (published - gradient).detach())
    assert loss.item() == pytest.approx(reference.item(), rel=1e-12)
    loss.backward()
    reference.backward()
    assert torch.allclose(ours.grad, published.grad, rtol=1e-12)


def test_masked_frames_take_part_in_the_divisor() -> None:
    x0, real, fake = noise("x0"), noise("real"), noise("fake")
    moved = x0.clone()
    moved[:, :, 0] += 10
    before, after = (dmd_gradient(clip, real, fake)[:, :, 1:] for clip in (x0, moved))
    ratio = after / before
    assert torch.allclose(ratio, ratio[:, :1, :1, :1, :1].expand_as(ratio)) and ratio.max() < 0.5


def test_the_student_learns_by_the_gradient_and_judges_learn_nothing_from_it() -> None:
    """Finite differences of the student's weights, the judges' gradient held still."""
    student, teacher, critic = TwoLayers(1), TwoLayers(2), TwoLayers(3)
    start, eps, sigma = noise("start"), noise("noise"), torch.tensor([0.9, 0.4])

    def clips() -> Tensor:
        return student(start, torch.full((2, SHAPE[2]), 625.0), TEXT)

    settings = {"teacher": teacher, "critic": critic, "text": TEXT, "negative": NEGATIVE, "config": DMDConfig()}
    gradient = judge(clips(), eps, sigma, **settings)
    assert gradient.dtype == torch.float64 and not gradient.requires_grad
    x = diffuse(clips(), eps, sigma)
    real = guided_score(teacher, x, sigma, TEXT, NEGATIVE, extra_guidance=3.0).detach()
    wanted = gradient_by_hand(clips().detach(), real, score(critic, x, sigma, TEXT).detach())
    np.testing.assert_allclose(gradient, wanted, rtol=1e-10)

    dmd_loss(clips(), gradient, NOT_FIRST).backward()
    counting = gradient * NOT_FIRST / NOT_FIRST.expand(SHAPE).sum()
    for weight in student.parameters():
        slopes = finite_difference(lambda: (counting * clips()).sum(), weight)
        assert torch.allclose(weight.grad, slopes, atol=1e-8) and slopes.abs().max() > 1e-4
    assert all(weight.grad is None for network in (teacher, critic) for weight in network.parameters())


def test_the_critic_regresses_the_flow_of_what_counts_and_the_student_feels_nothing() -> None:
    critic, eps, sigma = TwoLayers(3), noise("noise"), torch.tensor([0.9, 0.4], dtype=torch.float64)
    x0 = noise("x0").requires_grad_()
    loss = critic_loss(critic, x0, eps, sigma, TEXT, NOT_FIRST)
    clean, level = x0.detach().numpy(), sigma.numpy()[:, None, None, None, None]
    noised = torch.from_numpy((1 - level) * clean + level * eps.numpy()).float()
    flow = critic(noised, (1000 * sigma).float()[:, None].expand(2, SHAPE[2]), TEXT).detach().numpy()
    error = (flow - (eps.numpy() - clean))[:, :, 1:] ** 2
    assert loss.item() == pytest.approx(error.mean(), rel=1e-12)
    loss.backward()
    assert x0.grad is None
    for weight in critic.parameters():
        slopes = finite_difference(lambda: critic_loss(critic, x0, eps, sigma, TEXT, NOT_FIRST), weight)
        assert torch.allclose(weight.grad, slopes, atol=1e-8) and slopes.abs().max() > 1e-3


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    """Micro-batches and ranks: the mean of their losses is the loss of all samples, and so are the gradients."""
    shape, config, critic = (8, *SHAPE[1:]), DMDConfig(), TwoLayers(3)
    x0, gradient, text = noise("x0", shape), noise("gradient", shape), TEXT[:1].expand(8, 1, 1)

    def losses(samples: range) -> Iterator[Tensor]:
        own = slice(samples.start, samples.stop)
        eps = normal(shape[1:], 5, "noise", samples=samples)
        sigma = score_sigmas(config, 5, "critic", 0, samples=samples)
        yield critic_loss(critic, x0[own], eps, sigma, text[own], NOT_FIRST)
        yield dmd_loss(x0[own], gradient[own], NOT_FIRST)

    for whole, *parts in zip(
        losses(range(8)), losses(range(3, 6)), losses(range(0, 3)), losses(range(6, 8)), strict=True
    ):
        weighted = sum(weight * part.item() for weight, part in zip((3, 3, 2), parts, strict=True)) / 8
        assert weighted == pytest.approx(whole.item(), rel=1e-12)


def test_a_student_comes_to_the_teachers_distribution() -> None:
    """Normal laws, whose scores are known: mean and deviation of the student move to the teacher's."""
    student, teacher, config = Normals([0.0], [0.3]), Normals([1.5], [1.0]), DMDConfig(extra_guidance=0.0)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.08)
    shape, text = (8, 4, 3, 4, 4), torch.zeros(8, 1, 1)
    for step in range(60):
        x0 = student.means + student.deviations * normal(shape[1:], 5, "latent", step, samples=range(8))
        eps = normal(shape[1:], 5, "noise", step, samples=range(8))
        sigma = score_sigmas(config, 5, "dmd", step, samples=range(8))
        gradient = judge(
            x0, eps, sigma, teacher=teacher, critic=copy.deepcopy(student), text=text, negative=text, config=config
        )
        optimizer.zero_grad()
        dmd_loss(x0, gradient, ALL).backward()
        optimizer.step()
    assert student.means.item() == pytest.approx(1.5, abs=0.1)
    assert student.deviations.item() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("knows_the_moment", [False, True])
def test_only_a_critic_of_the_moment_at_hand_has_beginnings_and_ends_both_come_to_the_data(
    knows_the_moment: bool,
) -> None:
    """Clips of one number, beginnings too high and ends too low by as much: pooled, they are nearly the data.

    So many videos that noise decides nothing: with 32 the gap wandered between 0.2 and 1.2 from draw to draw, and draws
    differ in their last bits from processor to processor. With 512 half of it or more stays: 0.72, 0.83, 0.56.
    """
    student, teacher, config = Normals([0.5, -0.5], [0.87, 0.87]), Normals([0.0], [1.0]), DMDConfig(extra_guidance=0.0)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.03)
    shape, videos, text = (1, 1, 1, 1), range(512), torch.zeros(512, 1, 1)
    for step in range(200):
        # All videos of a step are at the same moment: its beginning or its end.
        moment = step % 2
        latent, eps = (normal(shape, 5, name, step, samples=videos) for name in ("latent", "noise"))
        x0 = student.means[moment] + student.deviations[moment] * latent
        sigma = score_sigmas(config, 5, "dmd", step, samples=videos)
        known = slice(moment, moment + 1) if knows_the_moment else slice(2)
        critic = Normals(student.means[known].tolist(), student.deviations[known].tolist())
        gradient = judge(x0, eps, sigma, teacher=teacher, critic=critic, text=text, negative=text, config=config)
        optimizer.zero_grad()
        dmd_loss(x0, gradient, torch.ones(1, 1, 1, 1, 1, dtype=torch.bool)).backward()
        optimizer.step()
    gap = (student.means[0] - student.means[1]).item()
    assert abs(gap) < 0.1 if knows_the_moment else gap > 0.4


def test_equal_transformers_have_nothing_to_teach_and_half_precision_is_left_inside() -> None:
    torch.manual_seed(0)
    sizes = WanConfig(dim=128, ffn_dim=128, num_heads=1, num_layers=1, text_dim=8)
    teacher = WanTransformer(sizes)
    nn.init.normal_(teacher.head.head.weight, std=0.1)
    critic, sigma = copy.deepcopy(teacher), torch.tensor([0.9, 0.4], dtype=torch.float64)
    shape, text, negative = (2, 16, 3, 4, 4), torch.randn(2, 5, 8), torch.zeros(2, 5, 8)
    x0, eps = noise("x0", shape).bfloat16(), noise("noise", shape).float()
    judges = {"teacher": teacher, "critic": critic, "text": text, "negative": negative}
    with torch.autocast("cpu", torch.bfloat16):
        assert not judge(x0, eps, sigma, **judges, config=DMDConfig(extra_guidance=0.0)).any()
        gradient = judge(x0, eps, sigma, **judges, config=DMDConfig())
    exact = judge(x0, eps, sigma, **judges, config=DMDConfig())
    assert gradient.dtype == exact.dtype == torch.float64
    assert gradient.any() and exact.any() and gradient.isfinite().all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shift": 0.0}, "dmd.shift is 0.0"),
        ({"lowest_timestep": 0.0}, "lie between 0 and 1000"),
        ({"lowest_timestep": 980.0, "highest_timestep": 20.0}, "they must rise"),
        ({"highest_timestep": 1000.0}, "dmd.highest_timestep 1000.0"),
        ({"extra_guidance": -1.0}, "dmd.extra_guidance is -1.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DMDConfig(**wrong)
