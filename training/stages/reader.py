"""The classifier that judges samples: reads from pixels what a prompt names."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ..config import TrainConfig, require
from ..data.scenes import FIRST_HELD_OUT, render, sample_scene
from ..engine.distributed import DistContext
from ..engine.loop import train
from ..engine.metrics import MetricsLogger
from ..engine.supervised import Loss, Supervised
from ..evaluation.figures import END_FRAMES
from ..models.export import training_record, write_weights
from ..reader import AttributeReader, ReaderBatch, accuracy, read, reader_batch, reader_loss
from ..reader.model import KIND

WATCHED_SCENES = 48


@dataclass(frozen=True, kw_only=True, slots=True)
class ReaderStageConfig(TrainConfig):
    """The reader stage."""

    batch: int = 16
    """Clips a step."""
    size: int = 64
    """Height and width in pixels."""

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        require(self.batch >= 1, f"batch is {self.batch}; it must be at least 1.")


class ReaderTask:
    """Classify scenes."""

    def __init__(self, config: ReaderStageConfig) -> None:
        self._config = config
        self._samples = DistContext.current().samples(config.batch)
        self.model = AttributeReader()

    def batch(self, step: int) -> ReaderBatch:
        config = self._config
        return reader_batch(config.seed, step, batch=config.batch, size=config.size, samples=self._samples)

    def loss(self, batch: ReaderBatch, step: int) -> Loss:
        total, parts = reader_loss(self.model(batch.video), batch)
        return Loss(total=total, parts=parts)

    def watch(self, log: MetricsLogger, step: int) -> None:
        scenes = [sample_scene(self._config.seed, FIRST_HELD_OUT + index) for index in range(WATCHED_SCENES)]
        readings = read(self.model, render(scenes, 0, END_FRAMES, self._config.size, self._config.size))
        found = accuracy(readings, [scene.attributes for scene in scenes])
        log.scalars({f"accuracy_{name}": share for name, share in found.items()}, step)

    def export(self, folder: Path, *, steps: int) -> None:
        header = {
            "kind": KIND,
            "model": asdict(self.model.config),
            "training": training_record(self._config, stage="reader", steps=steps),
        }
        write_weights(folder / "reader.safetensors", self.model.state_dict(), header, dtype=torch.float32)


CONFIG = ReaderStageConfig


def run(config: ReaderStageConfig) -> bool:
    """Train; True when finished."""
    return train(Supervised(ReaderTask(config), config), config, stage="reader")
