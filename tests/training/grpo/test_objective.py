"""GRPO's formulas against torch.distributions and finite differences, and its trajectories against inference."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.flow import add_noise
from sfpp_core.rollout.rollout import Rollout
from sfpp_core.rollout.state import RolloutState
from sfpp_core.wan.config import WanConfig
from sfpp_core.wan.transformer import WanTransformer
from training.config import ConfigError
from training.engine.seeding import VideoNoise
from training.grpo.objective import (
    PolicyBatch,
    PolicyConfig,
    Trajectory,
    advantages,
    backpropagate_lessons,
    clipped_objective,
    divergence,
    even_weights,
    is_clipped,
    log_prob,
    record,
    reference_estimates,
    replay,
)
from training.self_forcing.rollouts import RolloutInputs

CHUNK = (2, 16, 3, 2, 2)
ROLLOUT = RolloutConfig(window=9, first_chunk_steps=(1000.0, 800.0, 600.0, 400.0, 200.0))
NUM_CHUNKS = 4
SIZE = (4, 4)
ALL = range(4 + 3 * 3)
"""Four transitions in the first chunk, three in each of the others."""


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small_network(seed: int = 0) -> WanTransformer:
    """Two layers, with a head that does something: a fresh one predicts no flow."""
    torch.manual_seed(seed)
    network = WanTransformer(WanConfig(dim=128, ffn_dim=64, num_heads=1, num_layers=2, text_dim=32))
    torch.nn.init.normal_(network.head.head.weight, std=0.05)
    return network.eval()


def videos(seeds: tuple[int, ...], *, dtype: torch.dtype = torch.float32) -> RolloutInputs:
    text = drawn(1, 7, 32, seed=9).expand(len(seeds), -1, -1)
    return RolloutInputs(text=text, noise=VideoNoise(seeds), device=torch.device("cpu"), dtype=dtype)


def beginning(count: int, *, seed: int = 0) -> RolloutState:
    return RolloutState(config=ROLLOUT, seed=seed, model_id="any", shape=(count, 16, *SIZE))


def recorded(network: WanTransformer, seeds: tuple[int, ...] = (5, 6)) -> Trajectory:
    return record(network, beginning(len(seeds)), videos(seeds), chunks=NUM_CHUNKS, autocast=nullcontext)


def policy(x0: Tensor, sigma: float) -> Independent:
    return Independent(Normal((1 - sigma) * x0.double(), sigma), 4)


@pytest.mark.parametrize("sigma", [0.9375, 0.625, 0.05])
def test_the_log_probability_is_that_of_the_renoising_gaussian(sigma: float) -> None:
    x0, following = drawn(*CHUNK), drawn(*CHUNK, seed=1)
    expected = policy(x0, sigma).log_prob(following.double()) / math.prod(CHUNK[1:])
    torch.testing.assert_close(log_prob(following, x0, sigma), expected, rtol=1e-12, atol=0)


def test_renoising_draws_what_the_log_probability_says() -> None:
    """Samples of `add_noise` have the entropy of the density that is claimed for them."""
    sigma, x0 = 0.625, drawn(1, 16, 3, 64, 64)
    following = add_noise(x0, drawn(*x0.shape, seed=1), sigma)
    entropy = policy(x0, sigma).entropy() / x0.numel()
    torch.testing.assert_close(-log_prob(following, x0, sigma), entropy, rtol=0, atol=5e-3)


def test_the_divergence_is_that_of_the_two_gaussians() -> None:
    x0, reference = drawn(*CHUNK), drawn(*CHUNK, seed=1)
    expected = kl_divergence(policy(x0, 0.625), policy(reference, 0.625)) / math.prod(CHUNK[1:])
    torch.testing.assert_close(divergence(x0, reference, 0.625), expected, rtol=1e-12, atol=0)
    assert (divergence(x0, x0, 0.625) == 0).all()


def test_gradients_of_log_probability_and_divergence_by_finite_differences() -> None:
    x0, other = (drawn(1, 2, 1, 2, 2, seed=seed).double() for seed in (0, 1))
    x0.requires_grad_()
    for formula in (log_prob, lambda following, x0, sigma: divergence(x0, following, sigma)):
        (gradient,) = torch.autograd.grad(formula(other, x0, 0.625).sum(), x0)
        steps = 1e-4 * torch.eye(x0.numel(), dtype=torch.float64).reshape(-1, *x0.shape)
        slopes = [(formula(other, x0 + step, 0.625) - formula(other, x0 - step, 0.625)) / 2e-4 for step in steps]
        torch.testing.assert_close(torch.stack(slopes).flatten(), gradient.flatten(), rtol=1e-6, atol=1e-9)


def test_advantages_are_standard_scores_within_the_group() -> None:
    rewards = torch.tensor([[0.1, 0.5, 0.9, 0.3], [7.0, 7.0, 7.0, 7.0]])
    result = advantages(rewards)
    first = rewards[0].double()
    expected = (first - first.mean()) / (first.var(correction=0).sqrt() + 1e-4)
    torch.testing.assert_close(result[0], expected)
    assert (result[1] == 0).all(), "a group without spread teaches nothing"
    lone = advantages(torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0]]))
    assert lone.max() <= math.sqrt(4)


def test_the_objective_is_flat_where_a_ratio_has_left_the_range_in_its_favour() -> None:
    ratio = torch.tensor([0.8, 0.95, 1.05, 1.2, 0.8, 0.95, 1.05, 1.2], dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([1.0] * 4 + [-1.0] * 4, dtype=torch.float64)
    objective = clipped_objective(ratio, advantage, 0.1)
    expected = torch.tensor([0.8, 0.95, 1.05, 1.1, -0.9, -0.95, -1.05, -1.2], dtype=torch.float64)
    torch.testing.assert_close(objective, expected)
    objective.sum().backward()
    assert ((ratio.grad == 0) == is_clipped(ratio, advantage, 0.1)).all()
    assert is_clipped(ratio, advantage, 0.1).tolist() == [False, False, False, True, True, False, False, False]


def test_even_weights_give_every_transition_the_same_pull_on_its_estimate() -> None:
    """With the noise that was drawn: the gradient of log N((1-s) x0 + s e; (1-s) x0, s^2) in x0 is e (1-s) / s."""
    sigmas = [0.9375, 0.8333, 0.625]
    noise, pulls = drawn(1, 16, 3, 2, 2, seed=1), []
    for sigma, weight in zip(sigmas, even_weights(sigmas), strict=True):
        x0 = drawn(*noise.shape).requires_grad_()
        (weight * log_prob(add_noise(x0.detach(), noise, sigma), x0, sigma)).sum().backward()
        pulls.append(x0.grad)
    for pull in pulls[1:]:
        torch.testing.assert_close(pull, pulls[0], rtol=1e-4, atol=1e-8)
    assert math.isclose(sum(even_weights(sigmas)), len(sigmas))


def test_a_recorded_video_is_the_video_that_inference_makes_of_its_seed_bit_for_bit() -> None:
    network = small_network()
    trajectory = recorded(network, seeds=(5,))
    rollout = Rollout(network, beginning(1, seed=5), trajectory.videos.text)
    with torch.no_grad():
        list(rollout.run(NUM_CHUNKS))
    assert torch.equal(trajectory.made.latents, rollout.state.latents)


def test_a_video_does_not_depend_on_those_that_are_made_with_it() -> None:
    network = small_network()
    alone, among = recorded(network, seeds=(5,)), recorded(network, seeds=(4, 5, 6))
    torch.testing.assert_close(among.made.latents[1:2], alone.made.latents, rtol=1e-4, atol=1e-4)
    assert not torch.equal(among.made.latents[0], among.made.latents[1])


def test_transitions_are_the_chain_of_every_chunk() -> None:
    trajectory = recorded(small_network())
    assert [transition.chunk for transition in trajectory.transitions] == [0] * 4 + [1] * 3 + [2] * 3 + [3] * 3
    later = trajectory.transitions[4:7]
    assert [transition.step.timestep for transition in later] == list(ROLLOUT.timesteps[:-1])
    assert [1000 * transition.next_sigma for transition in later] == pytest.approx(ROLLOUT.timesteps[1:])
    for first, second in zip(later[:-1], later[1:], strict=True):
        assert torch.equal(first.following, second.step.noised)


def test_the_ratio_is_exactly_one_until_the_weights_change() -> None:
    network = small_network()
    trajectory = recorded(network)
    for transition, x0 in replay(network, trajectory, ALL, autocast=nullcontext):
        assert x0.requires_grad
        assert torch.equal(transition.log_prob_of(x0), transition.log_prob)

    with torch.no_grad():
        network.head.head.weight *= 1.01
    for transition, x0 in replay(network, trajectory, [2], autocast=nullcontext):
        assert (transition.log_prob_of(x0) != transition.log_prob).all()


def test_half_precision_keeps_the_ratio_at_one_and_loses_no_gradient() -> None:
    network = small_network()
    in_bfloat16 = videos((5,), dtype=torch.bfloat16)
    trajectory = record(network, beginning(1), in_bfloat16, chunks=NUM_CHUNKS, autocast=bfloat16)
    for transition, x0 in replay(network, trajectory, ALL, autocast=bfloat16):
        action = transition.log_prob_of(x0)
        assert torch.equal(action, transition.log_prob)
        network.zero_grad()
        action.sum().backward()
        assert all(weight.grad.abs().max() > 0 for weight in network.parameters())


def bfloat16() -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16)


def test_a_part_of_the_transitions_is_replayed_as_it_is_among_all() -> None:
    network = small_network()
    trajectory = recorded(network)
    every = [x0 for _, x0 in replay(network, trajectory, ALL, autocast=nullcontext)]
    some = list(replay(network, trajectory, {6, 1}, autocast=nullcontext))
    assert [transition for transition, _ in some] == [trajectory.transitions[1], trajectory.transitions[6]]
    assert torch.equal(some[0][1], every[1]) and torch.equal(some[1][1], every[6])
    assert list(replay(network, trajectory, (), autocast=nullcontext)) == []


def test_the_gradient_of_a_transition_by_finite_differences() -> None:
    """In the last layer's queries, which reach the estimate through the chunk alone and leave the past as it is."""
    network = small_network()
    trajectory = recorded(network)
    weight = network.blocks[-1].self_attn.q.weight

    def action() -> Tensor:
        ((transition, x0),) = replay(network, trajectory, [6], autocast=nullcontext)
        return transition.log_prob_of(x0).sum()

    action().backward()
    step = 0.1 * weight.grad / weight.grad.norm()
    with torch.no_grad():
        weight += step
        ahead = action()
        weight -= 2 * step
        behind = action()
    torch.testing.assert_close(weight.grad.norm().double(), (ahead - behind) / 0.2, rtol=1e-2, atol=0)


def test_no_gradient_flows_through_the_past() -> None:
    """A chunk's clean past is given: only one network call is in the graph of an estimate."""
    network = small_network()
    trajectory = recorded(network)
    calls = []
    network.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    for _, x0 in replay(network, trajectory, [12], autocast=nullcontext):
        x0.sum().backward()
    assert calls == [False, False, False, True]


def lesson(trajectory: Trajectory, *advantage: float, chosen: Sequence[int] = ALL, **others: object) -> PolicyBatch:
    others.setdefault("references", ())
    advantages = torch.tensor(advantage, dtype=torch.float64)
    return PolicyBatch(trajectory=trajectory, advantage=advantages, chosen=chosen, **others)


def gradient_of(network: WanTransformer, lessons: Sequence[PolicyBatch], config: PolicyConfig) -> Tensor:
    network.zero_grad()
    backpropagate_lessons(network, lessons, config, autocast=nullcontext)
    return torch.cat([weight.grad.flatten() for weight in network.parameters()])


def nudged(network: WanTransformer) -> WanTransformer:
    """The network after an update of some sort."""
    other = copy.deepcopy(network)
    with torch.no_grad():
        for index, weight in enumerate(other.parameters()):
            weight += 1e-3 * drawn(*weight.shape, seed=index)
    return other


def test_the_gradient_of_an_update_is_that_of_the_whole_objective_written_out() -> None:
    """Transition by transition, with what is clipped, weighted and penalised, against one formula over one graph."""
    start = small_network()
    trajectory, network = recorded(start), nudged(start)
    chosen, clip = (0, 2, 3, 5), 5e-5
    config = PolicyConfig(clip=clip, kl=0.3)
    references = reference_estimates(start, trajectory, chosen, autocast=nullcontext)
    found = gradient_of(network, [lesson(trajectory, 1.5, -1.0, chosen=chosen, references=references)], config)

    pulls = [step.next_sigma / (1 - step.next_sigma) for step in trajectory.transitions]
    total = torch.zeros((), dtype=torch.float64)
    clipped = 0
    for index, (transition, x0) in zip(chosen, replay(network, trajectory, chosen, autocast=nullcontext), strict=True):
        sigma = transition.next_sigma
        acted = next(iter(replay(start, trajectory, [index], autocast=nullcontext)))[1].detach()
        new, old = (policy(x, sigma).log_prob(transition.following.double()) / x0[0].numel() for x in (x0, acted))
        apart = kl_divergence(policy(x0, sigma), policy(acted, sigma)) / x0[0].numel()
        for video, advantage in enumerate((1.5, -1.0)):
            ratio = (new - old)[video].exp()
            gain = min(ratio * advantage, max(1 - clip, min(1 + clip, ratio)) * advantage)
            clipped += not getattr(gain, "requires_grad", False)
            weighted = gain * pulls[index] / (sum(pulls) / len(pulls))
            total = total + (0.3 * apart[video] - weighted) / (2 * len(chosen))
    assert 0 < clipped < 2 * len(chosen), "some are clipped and some are not"
    expected = torch.autograd.grad(total, list(network.parameters()))
    expected = torch.cat([part.flatten() for part in expected])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_the_penalty_is_the_same_whether_or_not_objectives_count_alike() -> None:
    """Videos that are as good as each other leave nothing but the penalty."""
    start = small_network()
    trajectory, network = recorded(start), nudged(start)
    references = reference_estimates(start, trajectory, ALL, autocast=nullcontext)
    equal = lesson(trajectory, 0.0, 0.0, references=references)
    even, plain = (gradient_of(network, [equal], PolicyConfig(kl=1.0, even=even)) for even in (True, False))
    assert plain.abs().max() > 0
    torch.testing.assert_close(even, plain)


def test_videos_learnt_from_in_parts_give_the_gradient_of_all_at_once() -> None:
    network, config = small_network(), PolicyConfig(even=False)
    together = gradient_of(network, [lesson(recorded(network, seeds=(5, 6)), 1.0, -1.0)], config)
    apart = [lesson(recorded(network, seeds=(5,)), 1.0), lesson(recorded(network, seeds=(6,)), -1.0)]
    torch.testing.assert_close(gradient_of(network, apart, config), together, rtol=1e-3, atol=1e-6)


def test_an_update_makes_the_better_video_more_likely_than_the_worse() -> None:
    network = small_network()
    trajectory = recorded(network)
    gradient_of(network, [lesson(trajectory, 1.0, -1.0)], PolicyConfig())
    with torch.no_grad():
        for weight in network.parameters():
            weight -= 0.05 * weight.grad
    gains = [
        transition.log_prob_of(x0.detach()) - transition.log_prob
        for transition, x0 in replay(network, trajectory, ALL, autocast=nullcontext)
    ]
    better, worse = torch.stack(gains).mean(dim=0).tolist()
    assert better > worse


def test_a_policy_learns_what_it_is_rewarded_for() -> None:
    """Five steps towards a large first channel, judged on videos of seeds that it never learnt from."""

    def made(seeds: range) -> tuple[Trajectory, Tensor]:
        noise = videos(tuple(seeds))
        trajectory = record(network, beginning(len(seeds)), noise, chunks=2, autocast=nullcontext)
        return trajectory, trajectory.made.latents[:, 0].mean(dim=(1, 2, 3))

    network = small_network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    before = made(range(1000, 1016))[1].mean()
    for step in range(5):
        trajectory, rewards = made(range(8 * step, 8 * step + 8))
        advantage = advantages(rewards[None])[0].tolist()
        lessons = [lesson(trajectory, *advantage, chosen=range(len(trajectory.transitions)))]
        for _ in range(2):
            gradient_of(network, lessons, PolicyConfig(clip=1e-2))
            optimizer.step()
    assert made(range(1000, 1016))[1].mean() > before + 0.2


def test_videos_of_a_group_without_spread_teach_nothing() -> None:
    network = small_network()
    trajectory = recorded(network)
    equal = advantages(torch.tensor([[0.4, 0.4]]))[0].tolist()
    assert (gradient_of(network, [lesson(trajectory, *equal)], PolicyConfig()) == 0).all()
    references = reference_estimates(network, trajectory, ALL, autocast=nullcontext)
    still = lesson(trajectory, *equal, references=references)
    assert (gradient_of(network, [still], PolicyConfig(kl=1.0)) == 0).all(), "where it began there is no divergence"


def test_the_share_of_transitions_is_what_is_trained_on() -> None:
    generator = torch.Generator().manual_seed(0)
    half = PolicyConfig(transitions=0.5).choose(12, generator)
    assert len(set(half)) == 6 and half == sorted(half) and set(half) < set(range(12))
    assert PolicyConfig().choose(12, generator) == list(range(12))
    assert len(PolicyConfig(transitions=0.01).choose(12, generator)) == 1


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"updates": 0}, "policy.updates is 0; it must be at least 1"),
        ({"clip": 1.0}, "policy.clip is 1; it must lie between 0 and 1"),
        ({"kl": -1.0}, "policy.kl is -1; it must be 0 or more"),
        ({"transitions": 0.0}, "policy.transitions is 0; it must be above 0"),
    ],
)
def test_impossible_settings_are_refused(entry: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PolicyConfig(**entry)
