"""One file out of a run: a student's weights with its settings in the header, as SFPPLoadModel opens it.

Stages write such a file themselves when they are finished. This one takes any checkpoint of theirs, averaged or raw, in
any precision.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sfpp_core.checkpoint import CheckpointError, open_checkpoint
from sfpp_core.wan.config import infer_config
from sfpp_core.wan.transformer import WanTransformer

from ..config import ConfigError, StageConfig, has_key, require
from ..engine.run_folder import AVERAGED, WEIGHTS, FinishedRun, RunFolder, read_run
from ..models.export import training_record, write_student

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
STUDENTS = ("student", "model")
"""What stages call the student: the first where there is also a critic."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportStageConfig(StageConfig):
    """The export stage; the file is `run.out`/student.safetensors."""

    source: str
    """Folder of a run that trains a student: causal_init, self_forcing, sfpp or grpo."""
    weights: str = AVERAGED
    """averaged, which is what samples best, or raw, as the last step left them."""
    dtype: str = "float16"
    """Precision of the file: float32, bfloat16 or float16."""
    sink: int | None = None
    """First latent frames that stay in the cache for ever, as the file tells its loaders; None for as many as the
    student was trained with. With 3, those of the built-in family keep their light, also if trained with none."""

    def __post_init__(self) -> None:
        StageConfig.__post_init__(self)
        require(self.weights in WEIGHTS, f"weights is {self.weights!r}; it must be one of {', '.join(WEIGHTS)}.")
        require(self.dtype in DTYPES, f"dtype is {self.dtype!r}; it must be one of {', '.join(DTYPES)}.")
        require(self.run.out != self.source, "run.out is the source itself; choose another folder for the file.")


CONFIG = ExportStageConfig


def run(config: ExportStageConfig) -> bool:
    """Write the file and open it again; True."""
    source = read_run(config.source)
    require(
        has_key(source.config, "student"),
        f"{config.source} holds a run of {source.stage}, which trains no student; name one that does.",
    )
    student = source.config.student if config.sink is None else replace(source.config.student, sink=config.sink)
    try:
        student.rollout()
    except ValueError as error:
        raise ConfigError(f"sink: {error}") from error
    path = RunFolder(config, stage="export").path / "student.safetensors"
    network = _network(source.weights(_student_name(source), config.weights))
    record = training_record(source.config, stage=source.stage, steps=source.step) | {"weights": config.weights}
    write_student(path, network, student, record, dtype=DTYPES[config.dtype])
    try:
        open_checkpoint(path)
    except CheckpointError as error:
        raise ConfigError(f"{config.source} holds no whole student: {error}") from error
    logger.info("export is finished: step %d of %s in %s", source.step, source.stage, path)
    return True


def _student_name(source: FinishedRun) -> str:
    return next((name for name in STUDENTS if name in source.networks), STUDENTS[0])


def _network(weights: dict[str, Tensor]) -> WanTransformer:
    """The transformer that these weights are of, around the same tensors."""
    with torch.device("meta"):
        network = WanTransformer(infer_config({name: weight.shape for name, weight in weights.items()}))
    network.load_state_dict(weights, assign=True)
    return network
