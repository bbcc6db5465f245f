"""The three networks of a run, opened, found to belong together, and put where they work."""

from __future__ import annotations

from dataclasses import dataclass

from sfpp_core.wan.transformer import WanTransformer

from ..attention import attention_on
from ..config import require
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
        ConfigError: a file holds no transformer of Wan 2.1, or one for other texts than the run's.
    """
    networks = Networks(
        student=_open("init", config.init, text_dim, config),
        teacher=_open("teacher", config.teacher, text_dim, config),
        critic=_open("critic.init", config.critic.init or config.teacher, text_dim, config),
    )
    place(networks.student, config)
    place(networks.critic, config)
    place_frozen(networks.teacher, config)
    if config.run.compile:
        # The student's calls grow with its cache, each length a shape of its own; the judges see one.
        compile_network(networks.teacher)
        compile_network(networks.critic)
    return networks


def _open(key: str, path: str, text_dim: int, config: Config) -> WanTransformer:
    network = open_transformer(path)
    expected = network.config.text_dim
    require(
        expected == text_dim,
        f"{key}: {path} reads embeddings {expected} wide, but those of conditioning are {text_dim} wide; use the text "
        "encoder that belongs to the model.",
    )
    network.attention = attention_on(config.device)
    return network
