"""The small pieces that stages are put together from."""

from __future__ import annotations

import pytest
import torch

from sfpp_core.rollout.flow import add_noise, generator_for
from sfpp_core.wan.attention import sdpa_attention
from training.causal_init.flow import edge_loss, flow_loss, kl_to_unit_normal
from training.engine.model_state import MovingAverage
from training.engine.optimizer import Muon, orthogonalize
from training.models.kernels import matmul_attention
from training.stages.teacher import stratified_uniform


def test_generators_differ_by_name_and_repeat() -> None:
    draws = [torch.rand(4, generator=generator_for(1, *names)) for names in (("a", 1), ("a", 1), ("a", 2), ("b", 1))]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2]) and not torch.equal(draws[0], draws[3])


def test_the_flow_of_a_straight_path_has_no_loss() -> None:
    x0, noise = torch.randn(2, 16, 3, 4, 4), torch.randn(2, 16, 3, 4, 4)
    velocity = (add_noise(x0, noise, 0.75) - add_noise(x0, noise, 0.25)) / 0.5
    assert flow_loss(velocity, x0, noise) < 1e-10
    assert flow_loss(-velocity, x0, noise) > 1


def test_edges_ignore_an_offset_and_see_a_flicker() -> None:
    video = torch.rand(1, 3, 5, 8, 8)
    assert edge_loss(video + 0.5, video) < 1e-6
    flicker = torch.tensor([0.0, 1, 0, 1, 0])[None, None, :, None, None]
    assert edge_loss(video + flicker, video).item() == pytest.approx(1 / 3, abs=1e-5)


def test_kl_is_zero_at_the_unit_normal_and_matches_torch() -> None:
    mean, logvar = torch.randn(100), torch.randn(100)
    assert kl_to_unit_normal(torch.zeros(9), torch.zeros(9)) == 0
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, (0.5 * logvar).exp()), normal(0.0, 1.0)).mean()
    assert torch.allclose(kl_to_unit_normal(mean, logvar), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(32, 48), (48, 32), (16, 16)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)).float())
    assert values.min() > 0.3 and values.max() < 1.3
    assert torch.linalg.svdvals(torch.randn(shape)).max() > 5, "the input was far from it"


def test_muon_fits_a_convolution() -> None:
    torch.manual_seed(0)
    wanted, layer = torch.nn.Conv2d(4, 8, 3), torch.nn.Conv2d(4, 8, 3)
    optimizer = Muon([layer.weight, layer.bias.reshape(8, 1).detach().requires_grad_()], lr=0.02)
    with torch.no_grad():
        layer.bias.copy_(wanted.bias)
    errors = []
    for _ in range(60):
        x = torch.randn(8, 4, 6, 6)
        loss = (layer(x) - wanted(x).detach()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(loss.item())
    assert errors[-1] < 0.2 * errors[0]


def test_the_average_follows_young_and_lags_when_old() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
    average = MovingAverage(layer, 0.9)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    average.update(0)
    assert average.state()["weight"].item() == pytest.approx(0.9)
    with average.applied():
        assert layer.weight.item() == pytest.approx(0.9)
    assert layer.weight.item() == 1.0
    with torch.no_grad():
        layer.weight.fill_(2.0)
    average.update(10_000)
    assert average.state()["weight"].item() == pytest.approx(0.9 * 0.9 + 0.1 * 2)


def test_an_average_that_begins_later_has_the_whole_decay_from_then_on() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    average = MovingAverage(layer, 0.99, start=40)
    for step in range(120):
        with torch.no_grad():
            layer.weight.fill_(float(min(step, 40)))
        average.update(step)
        # 39 when it begins, and towards 40, where the weights stay, by a hundredth of the way at a time.
        expected = step if step < 40 else 40 - 0.99 ** (step - 39)
        assert average.state()["weight"].item() == pytest.approx(expected, abs=1e-4), step


@pytest.mark.parametrize(("step", "decay"), [(0, 0.1), (160, 161 / 170), (439, 440 / 449), (440, 0.98), (499, 0.98)])
def test_an_average_from_the_first_weights_on_is_as_quick_as_it_is_young(step: int, decay: float) -> None:
    layer = torch.nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        layer.weight.zero_()
    average = MovingAverage(layer, 0.98)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    average.update(step)
    assert average.state()["weight"].item() == pytest.approx(1 - decay, abs=1e-12)


def test_the_average_comes_off_again_after_an_error() -> None:
    layer = torch.nn.Linear(2, 2)
    own = layer.weight.detach().clone()
    average = MovingAverage(layer, 0.5)
    average.state()["weight"].zero_()
    with pytest.raises(KeyError), average.applied():
        raise KeyError
    assert torch.equal(layer.weight, own)


def test_stratified_numbers_fall_one_to_each_part() -> None:
    numbers = stratified_uniform(8, generator_for(0, "strata"))
    assert torch.equal((numbers * 8).long(), torch.arange(8))


def test_attention_for_training_is_the_same_attention() -> None:
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, length, 2, 16, generator=draw, dtype=torch.float64) for length in (7, 5, 5))
    mine, reference = (attention(q, k, v) for attention in (matmul_attention, sdpa_attention))
    # The softmax is in float32 whatever the inputs are.
    torch.testing.assert_close(mine, reference, atol=1e-6, rtol=0)
