"""Recognise and open every published layout of Wan 2.1 text-to-video weights, and how each family is sampled."""

from .checkpoint import Checkpoint, TransformerKind, expected_shapes, open_checkpoint
from .errors import CheckpointError
from .presets import PRESETS, Preset, match_preset

__all__ = [
    "PRESETS",
    "Checkpoint",
    "CheckpointError",
    "Preset",
    "TransformerKind",
    "expected_shapes",
    "match_preset",
    "open_checkpoint",
]
