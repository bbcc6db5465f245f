"""A step's work by part: which network is called how often, and what that costs. One video, one GPU's view.

A step is one update of the student and `critic_updates` of the critic. In Self-Forcing every one of these rolls a
window of its own ("fresh"); they may as well all judge the student's ("shared"), which rolls a sixth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from .config import ScalingConfig
from .costs import ChunkCosts, PassCosts, Sizes
from .schedule import Calls, restarting, streaming

GUIDED_PASSES = 2
"""Of the teacher for one score: with the prompt and with the negative prompt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Calls of one network."""

    name: str
    network: Sizes | None
    """None for the autoencoder, which every GPU holds whole."""
    passes: float
    """A mean over windows."""
    flops: float
    """Of all of them."""
    trains: bool = False
    """Whether gradients come back."""
    rolls: bool = False
    """Whether the passes follow one another with the same weights and nothing between, so that weights may stay
    gathered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What a step does for one video."""

    generator: tuple[Part, ...]
    """The student's update."""
    critic: tuple[Part, ...]
    """One update of the critic."""
    critic_updates: int

    def total(self, measure: Callable[[Part], float]) -> float:
        """A measure of parts, summed over all updates of a step."""
        return sum(map(measure, self.generator)) + self.critic_updates * sum(map(measure, self.critic))

    @property
    def transformer_flops(self) -> float:
        """Of a step, the autoencoder's left out."""
        return self.total(lambda part: part.flops if part.network else 0.0)

    @property
    def vae_flops(self) -> float:
        """The autoencoder's."""
        return self.total(lambda part: 0.0 if part.network else part.flops)


def methods(config: ScalingConfig) -> dict[str, Calls]:
    """Calls of a window by method."""
    return {
        "self_forcing": restarting(config, replace(config.window, rollout_frames=config.window.frames)),
        "sfpp, restart": restarting(config, config.window),
        "sfpp, streaming": streaming(config, config.window),
    }


def work(
    config: ScalingConfig, costs: PassCosts, calls: Calls, *, teacher: str, fresh: bool, checkpointing: bool
) -> Work:
    """The work of a step.

    teacher: its name in `config.teachers`. fresh: whether each of the critic's updates rolls a window of its own.
    """
    roll = _roll(costs, calls)
    score = Part(name="critic's score", network=costs.student, passes=1, flops=costs.critic.flops)
    train_critic = Part(
        name="critic, forward and backward",
        network=costs.student,
        passes=1,
        flops=costs.critic_training[checkpointing].flops,
        trains=True,
    )
    guided = Part(
        name="teacher's score",
        network=costs.teachers[teacher],
        passes=GUIDED_PASSES,
        flops=GUIDED_PASSES * costs.teacher[teacher].flops,
    )
    return Work(
        generator=(*roll, guided, score, *_gradient(costs, calls, checkpointing)),
        critic=(*(roll if fresh else ()), train_critic),
        critic_updates=config.critic_updates,
    )


def _roll(costs: PassCosts, calls: Calls) -> tuple[Part, ...]:
    """A window, made a valid clip."""
    beginning = sum(number * costs.first_frames[warmup].flops for warmup, number in calls.first_frames.items())
    return (
        Part(name="texts", network=costs.student, passes=calls.texts, flops=calls.texts * costs.text.flops, rolls=True),
        _chunks("rollout", costs, costs.chunk, calls.rolled, rolls=True),
        Part(name="first frames", network=None, passes=calls.first_frames.total(), flops=beginning),
    )


def _gradient(costs: PassCosts, calls: Calls, checkpointing: bool) -> tuple[Part, ...]:
    """The window played again with gradients; the clean passes share the text's keys and values."""
    clean = _chunks("clean passes again", costs, costs.chunk, calls.replayed)
    return (
        replace(clean, flops=clean.flops + costs.text.flops),
        _chunks("chunks, forward and backward", costs, costs.chunk_training[checkpointing], calls.trained, trains=True),
    )


def _chunks(name: str, costs: PassCosts, chunk: ChunkCosts, calls: Counter[int], **kind: bool) -> Part:
    flops = sum(number * chunk.flops(past) for past, number in calls.items())
    return Part(name=name, network=costs.student, passes=calls.total(), flops=flops, **kind)
