"""The three networks of a run, opened, found to belong together, and put where they work."""

from __future__ import annotations

from dataclasses import dataclass

from sfpp_core.wan.transformer import WanTransformer

from ..attention import attention_on
from ..models import open_transformer
from ..sharding import place, place_frozen
from ..text_to_video import compile_network
from .config import Config


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Networks:
    """Who rolls out, and who judges."""

    student: WanTransformer
    teacher: WanTransformer
    """Frozen."""
    critic: WanTransformer


def open_networks(config: Config, *, text_dim: int) -> Networks:
    """Open the networks of a run; text_dim: width of its embeddings.

    Raises:
        ConfigError: a file holds no transformer of Wan 2.1, a student for a teacher or the other way round, or one for
            other texts than the run's.
    """
    # Each is placed before the next one is opened: every process of a machine holds a whole one until then.
    student = open_transformer(config.init, key="init", kind="student", text_dim=text_dim)
    place(student, config)
    teacher = open_transformer(
        config.teacher, key="teacher", kind="teacher", text_dim=text_dim, dtype=config.compute_dtype
    )
    place_frozen(teacher, config)
    # Whatever it starts as: it is trained to see whole clips.
    critic = open_transformer(config.critic.init or config.teacher, key="critic.init", text_dim=text_dim)
    place(critic, config)
    for network in (student, teacher, critic):
        network.attention = attention_on(config.device)
    if config.run.compile:
        # The student's calls grow with its cache, each length a shape of its own; the judges see one.
        compile_network(teacher)
        compile_network(critic)
    return Networks(student=student, teacher=teacher, critic=critic)
