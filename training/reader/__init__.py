"""The attribute reader: reads from pixels what a prompt names, to judge what generators make of it."""

from __future__ import annotations

from .batches import ReaderBatch, reader_batch, reader_loss, roughen, truth
from .model import AttributeReader, ReaderConfig, ReaderOutput, Reading, accuracy, load_reader, read

__all__ = [
    "AttributeReader",
    "ReaderBatch",
    "ReaderConfig",
    "ReaderOutput",
    "Reading",
    "accuracy",
    "load_reader",
    "read",
    "reader_batch",
    "reader_loss",
    "roughen",
    "truth",
]
