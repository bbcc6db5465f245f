"""The causal few-step student, from a teacher: every chunk of a clip in parallel, seeing what the cache would show.

It starts the student off, by one of three objectives:

- `flow`: flow matching with teacher forcing, on clips (`causal_init.flow`);
- `ode`: regression along trajectories of the teacher's ODE (`causal_init.ode`), which the ode_pairs stage makes;
- `consistency`: causal consistency distillation (`causal_init.consistency`), on clips or on where trajectories end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sfpp_core.wan.transformer import WanTransformer

from ..causal_init.consistency import ConsistencyConfig, ConsistencyObjective
from ..causal_init.data import CausalPass, Objective, TrainingClips, clips_of_scenes, ends_of_trajectories
from ..causal_init.flow import FlowConfig, FlowObjective
from ..causal_init.ode import OdeConfig, OdeObjective
from ..config import TrainConfig, core_refusals, require
from ..data.clips import ClipSource
from ..data.prompt_embeds import ConditioningConfig
from ..engine.distributed import place_frozen
from ..engine.loop import train
from ..engine.metrics import MetricsLogger
from ..engine.model_state import TrainableModel
from ..engine.supervised import Loss, Supervised
from ..models.export import StudentConfig, training_record, write_student
from ..models.kernels import attention_on, compile_network
from ..models.open import check_autoencoder, open_autoencoder, open_transformer
from ..models.sampling import decode, sample_one_by_one

OBJECTIVES = ("flow", "ode", "consistency")
WATCHED_FRAMES = 42
"""Latent frames of sample videos: twice what the student was trained on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalInitStageConfig(TrainConfig):
    """The causal_init stage. Learnt from are either clips of scenes, `data`, or `trajectories`."""

    objective: str
    """flow, ode or consistency."""
    teacher: str
    """Checkpoint that the student starts from, and that consistency distils."""
    vae: str
    """File of the autoencoder, for sample videos."""
    student: StudentConfig
    data: list[ClipSource] = field(default_factory=list)
    """The clips to draw from; longer ones are cut."""
    text_encoder: str | None = None
    """File of the built-in family's text encoder, for the prompts of `data`; it stays as it is."""
    trajectories: str | None = None
    """Folder of the ode_pairs stage."""
    conditioning: ConditioningConfig | None = None
    """The prompts of `trajectories`."""
    flow: FlowConfig = field(default_factory=FlowConfig)
    ode: OdeConfig = field(default_factory=OdeConfig)
    consistency: ConsistencyConfig = field(default_factory=ConsistencyConfig)
    batch: int = 8
    """Clips a step."""
    frames: int = 21
    """Latent frames of a clip, a multiple of the chunk."""

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        with core_refusals():
            self.student.rollout()
        require(
            self.objective in OBJECTIVES,
            f"objective is {self.objective!r}; it must be one of {', '.join(OBJECTIVES)}.",
        )
        require(self.batch >= 1, f"batch is {self.batch}; it must be at least 1.")
        require(
            self.frames >= 1 and self.frames % self.student.chunk == 0,
            f"frames is {self.frames}; it must be a multiple of student.chunk, {self.student.chunk}.",
        )
        self._check_material()

    def _check_material(self) -> None:
        if self.trajectories is None:
            require(self.objective != "ode", "trajectories is missing; name a folder of the ode_pairs stage.")
            require(bool(self.data), "data is empty; name at least one folder of the latents stage, or trajectories.")
            require(self.text_encoder is not None, "text_encoder is missing; name the file that reads data's prompts.")
            require(self.conditioning is None, "conditioning is for trajectories; data bring their prompts along.")
        else:
            require(not self.data, "give either data or trajectories, not both.")
            require(self.conditioning is not None, "conditioning is missing; name the prompts of the trajectories.")
            require(self.text_encoder is None, "text_encoder is for data; for trajectories it is in conditioning.")


class CausalInitTask:
    """The student and what it is told to learn."""

    def __init__(self, config: CausalInitStageConfig) -> None:
        self._config = config
        # First, because networks take minutes to open; the autoencoder is opened whenever videos are watched.
        check_autoencoder(config.vae)
        self._material = _material(config)
        # Placed before the student is opened: every process of a machine holds a whole network until then.
        teacher = self._frozen_teacher() if config.objective == "consistency" else None
        self.model = self._open_teacher(torch.float32)
        if config.run.compile:
            compile_network(self.model)
        self._trained: TrainableModel | None = None
        self._objective = self._make_objective(teacher)
        self.batch = self._objective.batch

    def follow(self, trained: TrainableModel) -> None:
        """Tell whose moving average consistency aims at."""
        self._trained = trained

    def loss(self, batch: Any, step: int) -> Loss:
        return self._objective.loss(batch, step)

    def watch(self, log: MetricsLogger, step: int) -> None:
        config, material = self._config, self._material
        text = material.texts.text_of(material.watched).to(config.device)
        latents = sample_one_by_one(
            self.model,
            text,
            config=config.student.rollout(),
            seed=config.seed,
            frames=WATCHED_FRAMES,
            size=material.latent_size,
            dtype=config.compute_dtype,
        )
        log.videos("rollouts", decode(open_autoencoder(config.vae).to(config.device), latents), step)

    def export(self, folder: Path, *, steps: int) -> None:
        record = training_record(self._config, stage="causal_init", steps=steps)
        write_student(folder / "student.safetensors", self.model, self._config.student, record)

    def _open_teacher(self, dtype: torch.dtype) -> WanTransformer:
        # Of either kind: a causal student may learn on by another objective, and consistency needs one.
        text_dim = self._material.texts.negative(1).shape[-1]
        network = open_transformer(self._config.teacher, key="teacher", text_dim=text_dim, dtype=dtype)
        network.attention = attention_on(self._config.device)
        return network

    def _frozen_teacher(self) -> WanTransformer:
        teacher = self._open_teacher(self._config.compute_dtype)
        place_frozen(teacher, self._config)
        return teacher

    def _make_objective(self, teacher: WanTransformer | None) -> Objective:
        config, material = self._config, self._material
        rollout = config.student.rollout()
        causal = CausalPass(rollout, frames=config.frames)
        common = {"rollout": rollout, "seed": config.seed, "batch": config.batch}
        if config.objective == "flow":
            return FlowObjective(self.model, causal, material.clips, material.texts, settings=config.flow, **common)
        if config.objective == "ode":
            return OdeObjective(self.model, causal, material.clips, material.texts, settings=config.ode, **common)
        return ConsistencyObjective(
            self.model,
            teacher,
            causal,
            material.clips,
            material.texts,
            averaged=lambda: self._trained.averaged(),
            settings=config.consistency,
            **common,
        )


def _material(config: CausalInitStageConfig) -> TrainingClips:
    if config.trajectories is None:
        return clips_of_scenes(config.data, config.text_encoder, frames=config.frames, seed=config.seed)
    return ends_of_trajectories(config.trajectories, config.conditioning, frames=config.frames, device=config.device)


CONFIG = CausalInitStageConfig


def run(config: CausalInitStageConfig) -> bool:
    """Train; True when finished."""
    task = CausalInitTask(config)
    supervised = Supervised(task, config)
    task.follow(supervised.networks["model"])
    return train(supervised, config, stage="causal_init")
