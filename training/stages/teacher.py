"""The bidirectional teacher: flow matching on encoded clips, the text encoder trained along with it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from sfpp_core.rollout.flow import NUM_TIMESTEPS, add_noise, generator_for, shift_sigma
from sfpp_core.tiny.text import TinyTextEncoder
from sfpp_core.wan.config import WanConfig
from sfpp_core.wan.transformer import WanTransformer

from ..causal_init.flow import flow_loss, stratified_uniform
from ..config import TrainConfig, check_starts, phase_at, require
from ..data.clips import ClipSource, LatentClips
from ..data.scenes import FIRST_HELD_OUT, prompt_for, sample_scene
from ..engine.distributed import DistContext
from ..engine.loop import train
from ..engine.metrics import MetricsLogger
from ..engine.seeding import normal
from ..engine.supervised import Loss, Supervised
from ..models.export import training_record, write_weights
from ..models.kernels import TextToVideo, attention_on, compile_network
from ..models.open import check_autoencoder, open_autoencoder, open_family_text_encoder, open_transformer
from ..models.sampling import decode, encode_prompts, sample_teacher

WATCHED_PROMPTS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Sizes of the transformer; the rest is given by Wan 2.1 and the text encoder."""

    dim: int = 256
    """Width; a multiple of 128, by which loaders tell the number of heads."""
    ffn_dim: int = 1024
    num_layers: int = 4

    def __post_init__(self) -> None:
        require(
            self.dim >= 128 and self.dim % 128 == 0,
            f"model.dim is {self.dim}; it must be a multiple of 128, by which loaders tell the number of heads.",
        )
        for name in ("ffn_dim", "num_layers"):
            require(getattr(self, name) >= 1, f"model.{name} is {getattr(self, name)}; it must be at least 1.")

    def wan(self, text_dim: int) -> WanConfig:
        """The transformer's own configuration."""
        return WanConfig(
            dim=self.dim,
            ffn_dim=self.ffn_dim,
            num_heads=self.dim // 128,
            num_layers=self.num_layers,
            text_dim=text_dim,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherPhase:
    """A part of the run. Short clips first: an hour of them teaches more than an hour of long ones."""

    start: int
    """First step."""
    data: list[ClipSource]
    """The clips to draw from; longer ones are cut."""
    frames: int
    """Latent frames of a clip, counted from its first."""
    batch: int
    """Clips a step."""

    def __post_init__(self) -> None:
        require(bool(self.data), "data of a phase is empty; name at least one folder of the latents stage.")
        for name in ("frames", "batch"):
            require(getattr(self, name) >= 1, f"{name} of a phase is {getattr(self, name)}; it must be at least 1.")


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherStageConfig(TrainConfig):
    """The teacher stage."""

    vae: str
    """File of the autoencoder, for sample videos."""
    phases: list[TeacherPhase]
    """In order of `start`; the first starts at step 0."""
    model: ModelConfig | None = None
    """Sizes of a new teacher; left out with `init`."""
    init: str | None = None
    """Folder with the teacher.safetensors and text_encoder.safetensors to go on from."""
    train_text_encoder: bool = True
    """Off to leave the text encoder as `init` has it, so that a student can be trained from an earlier teacher."""
    shift: float = 4.0
    """Moves training timesteps towards noise, where motion is decided."""
    drop_prompt: float = 0.1
    """Share of clips trained with the empty prompt, the unconditional branch of guidance."""
    guidance: float = 3.0
    """Of sample videos."""
    sample_steps: int = 30
    """Of sample videos."""

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        check_starts([phase.start for phase in self.phases])
        require(
            (self.model is None) != (self.init is None),
            "give either model, the sizes of a new teacher, or init, the folder of one to go on from.",
        )
        require(
            self.train_text_encoder or self.init is not None,
            "train_text_encoder is off, but a new text encoder knows no words; name a trained one's folder in init.",
        )
        require(self.shift > 0, f"shift is {self.shift}; it must be above 0, e.g. 4.")
        require(0 <= self.drop_prompt < 1, f"drop_prompt is {self.drop_prompt}; it must lie in [0, 1), e.g. 0.1.")


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherBatch:
    """Clips and what they are called."""

    latents: Tensor
    """B C T H W, model space, float32."""
    tokens: Tensor
    """[B, L]; those of the empty prompt where the prompt is dropped."""
    samples: range
    """Which ones of the step's batch these are."""


class TeacherTask:
    """Predict the flow of noised clips."""

    def __init__(self, config: TeacherStageConfig) -> None:
        self._config = config
        world = DistContext.current()
        self._samples = {phase.start: world.samples(phase.batch, key="batch of a phase") for phase in config.phases}
        check_autoencoder(config.vae)
        self.model = _begin(config)
        self.model.text_encoder.requires_grad_(config.train_text_encoder)
        self._tokenizer = self.model.text_encoder.tokenizer
        if config.run.compile:
            compile_network(self.model)
        self._phase = config.phases[0]
        self._clips = LatentClips.read(self._phase.data, self._phase.frames)

    def batch(self, step: int) -> TeacherBatch:
        config, phase = self._config, phase_at(self._config.phases, step)
        if phase != self._phase:
            self._phase, self._clips = phase, LatentClips.read(phase.data, phase.frames)
        generator = generator_for(config.seed, "teacher", step)
        chosen = torch.randint(len(self._clips), (phase.batch,), generator=generator)
        wording = torch.randint(2**20, (phase.batch,), generator=generator).tolist()
        dropped = (torch.rand(phase.batch, generator=generator) < config.drop_prompt).tolist()
        samples = self._samples[phase.start]
        prompts = ["" if dropped[sample] else self._clips.prompt(chosen[sample], wording[sample]) for sample in samples]
        return TeacherBatch(
            latents=self._clips.latents[chosen[samples.start : samples.stop]].float(),
            tokens=self._tokenizer.batch(prompts),
            samples=samples,
        )

    def loss(self, batch: TeacherBatch, step: int) -> Loss:
        config, x0, samples = self._config, batch.latents, batch.samples
        strata = stratified_uniform(phase_at(config.phases, step).batch, generator_for(config.seed, "sigma", step))
        sigma = shift_sigma(strata[samples.start : samples.stop], config.shift).to(x0.device)
        noise = normal(x0.shape[1:], config.seed, "noise", step, samples=samples).to(x0.device)
        noised = add_noise(x0, noise, sigma[:, None, None, None, None])
        timestep = (sigma * NUM_TIMESTEPS)[:, None].expand(-1, x0.shape[2])
        total = flow_loss(self.model(noised, timestep, batch.tokens), x0, noise)
        return Loss(total=total, parts={})

    def watch(self, log: MetricsLogger, step: int) -> None:
        config = self._config
        prompts = [prompt_for(sample_scene(config.seed, FIRST_HELD_OUT + index)) for index in range(WATCHED_PROMPTS)]
        encoder, network = self.model.text_encoder, self.model.transformer
        text, unconditional = encode_prompts(encoder, prompts), encode_prompts(encoder, [""] * len(prompts))
        channels, _, height, width = self._clips.latents.shape[1:]
        shape = (len(prompts), channels, phase_at(config.phases, step).frames, height, width)
        noise = torch.randn(shape, generator=generator_for(config.seed, "watch"))
        latents = sample_teacher(
            network, text, unconditional, noise, steps=config.sample_steps, shift=config.shift, guidance=config.guidance
        )
        log.videos("samples", decode(open_autoencoder(config.vae).to(config.device), latents), step)

    def export(self, folder: Path, *, steps: int) -> None:
        record = training_record(self._config, stage="teacher", steps=steps)
        network, encoder = self.model.transformer, self.model.text_encoder
        header = {"kind": "teacher", "model": asdict(network.config), "training": record}
        write_weights(folder / "teacher.safetensors", network.state_dict(), header, dtype=torch.float16)
        header = encoder.header() | {"training": record}
        write_weights(folder / "text_encoder.safetensors", encoder.state_dict(), header, dtype=torch.float16)


def _begin(config: TeacherStageConfig) -> TextToVideo:
    """The network before its first step."""
    if config.init is not None:
        folder = Path(config.init)
        encoder = open_family_text_encoder(str(folder / "text_encoder.safetensors"))
        transformer = open_transformer(
            str(folder / "teacher.safetensors"), key="init", kind="teacher", text_dim=encoder.config.text_dim
        )
    else:
        encoder = TinyTextEncoder()
        transformer = WanTransformer(config.model.wan(encoder.config.text_dim))
    transformer.attention = attention_on(config.device)
    return TextToVideo(transformer, encoder)


CONFIG = TeacherStageConfig


def run(config: TeacherStageConfig) -> bool:
    """Train; True when finished."""
    return train(Supervised(TeacherTask(config), config), config, stage="teacher")
