"""The causal few-step student, from the teacher: every chunk of a clip is denoised in parallel, given the clean past.

Teacher forcing (clean frames, then noisy frames, in one sequence under the mask that equals the rolling cache), each
chunk at a timestep of its own. It starts the student off; a student trained so has never continued a film of its own.
To soften that, part of the steps put the student's own estimate of the past in the place of the true one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from einops import repeat
from torch import Tensor

from sfpp_core.rollout.schedule import NUM_TIMESTEPS, add_noise, flow_to_x0, shift_sigma
from sfpp_core.tiny.family import load_family_text_encoder, load_teacher, load_vae
from sfpp_core.wan.geometry import WAN21
from sfpp_core.wan.masks import teacher_forcing_mask, to_tokens

from ..attention import matmul_attention
from ..board import Board
from ..config import TrainConfig, require
from ..export import training_record
from ..latent_clips import ClipSource, LatentClips
from ..loop import train
from ..losses import flow_loss
from ..sampling import decode, encode_prompts, sample_student
from ..scenes import prompt_for, sample_scene
from ..seeding import generator_for
from ..student import StudentConfig, write_student
from ..supervised import Loss, Supervised
from ..text_to_video import compile_network
from .teacher import WATCHED_PROMPTS, stratified_uniform
from .vae import FIRST_HELD_OUT

WATCHED_FRAMES = 42
"""Latent frames of sample videos: twice what the student was trained on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(TrainConfig):
    """The causal_init stage."""

    data: list[ClipSource]
    """The clips to draw from; longer ones are cut."""
    teacher: str
    """File of the teacher."""
    text_encoder: str
    """File of the text encoder; it stays as it is."""
    vae: str
    """File of the autoencoder, for sample videos."""
    student: StudentConfig
    batch: int = 8
    """Clips a step."""
    frames: int = 21
    """Latent frames of a clip, a multiple of the chunk."""
    student_timesteps: float = 0.75
    """Share of chunks at one of the student's own timesteps; the rest are anywhere, which keeps the flow smooth."""
    own_past: float = 0.5
    """Share of steps whose past is the student's own estimate of it."""

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        self.student.rollout()
        require(bool(self.data), "data is empty; name at least one folder of the latents stage.")
        require(self.batch >= 1, f"batch is {self.batch}; it must be at least 1.")
        require(
            self.frames >= 1 and self.frames % self.student.chunk == 0,
            f"frames is {self.frames}; it must be a multiple of student.chunk, {self.student.chunk}.",
        )
        for name in ("student_timesteps", "own_past"):
            require(0 <= getattr(self, name) <= 1, f"{name} is {getattr(self, name)}; it must lie in [0, 1].")


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentBatch:
    """Clips and their prompts."""

    latents: Tensor
    """B C T H W, model space, float32."""
    prompts: list[str]


class CausalInitTask:
    """Predict the flow of noised chunks from the clean past."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._text_encoder = load_family_text_encoder(Path(config.text_encoder)).to(config.device)
        self.model = load_teacher(Path(config.teacher))
        self.model.attention = matmul_attention
        self._clips = LatentClips.read(config.data, config.frames)
        height, width = self._clips.latents.shape[-2:]
        rollout = config.student.rollout()
        frame_mask = teacher_forcing_mask(config.frames, chunk=rollout.chunk, window=rollout.window, sink=rollout.sink)
        self._mask = to_tokens(frame_mask, WAN21.tokens_per_frame(height, width)).to(config.device)
        if config.run.compile:
            compile_network(self.model)

    def batch(self, step: int) -> StudentBatch:
        config = self._config
        generator = generator_for(config.seed, "causal_init", step)
        chosen = torch.randint(len(self._clips), (config.batch,), generator=generator)
        wording = torch.randint(2**20, (config.batch,), generator=generator).tolist()
        prompts = [self._clips.prompts[clip] for clip in chosen.tolist()]
        return StudentBatch(
            latents=self._clips.latents[chosen].float(),
            prompts=[wordings[pick % len(wordings)] for wordings, pick in zip(prompts, wording, strict=True)],
        )

    def loss(self, batch: StudentBatch, step: int) -> Loss:
        config = self._config
        generator = generator_for(config.seed, "noise", step)
        text = encode_prompts(self._text_encoder, batch.prompts)
        past = batch.latents
        own = torch.rand((), generator=generator).item() < config.own_past
        if own:
            past = self._own_estimate(batch.latents, text, generator)
        sigma = self._sigmas(len(batch.latents), generator).to(batch.latents.device)
        noise = torch.randn(batch.latents.shape, generator=generator).to(batch.latents.device)
        flow = self._flow(past, add_noise(batch.latents, noise, _spread(sigma)), sigma, text)
        total = flow_loss(flow, batch.latents, noise)
        return Loss(total=total, parts={"own_past" if own else "true_past": total.detach()})

    def watch(self, board: Board, step: int) -> None:
        config = self._config
        prompts = [prompt_for(sample_scene(config.seed, FIRST_HELD_OUT + index)) for index in range(WATCHED_PROMPTS)]
        text = encode_prompts(self._text_encoder, prompts)
        size = tuple(self._clips.latents.shape[-2:])
        latents = sample_student(
            self.model, text, config=config.student.rollout(), seed=config.seed, frames=WATCHED_FRAMES, size=size
        )
        board.videos("rollouts", decode(load_vae(Path(config.vae)).to(config.device), latents), step)

    def export(self, folder: Path) -> None:
        record = training_record(self._config, stage="causal_init")
        write_student(folder / "student.safetensors", self.model, self._config.student, record)

    def _flow(self, past: Tensor, noised: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        """Flow of the noised half. sigma: [B, T]."""
        frames = tuple(range(past.shape[2]))
        timestep = torch.cat([torch.zeros_like(sigma), sigma * NUM_TIMESTEPS], dim=1)
        both = torch.cat([past, noised], dim=2)
        flow = self.model(both, timestep, text, positions=frames + frames, mask=self._mask)
        return flow[:, :, past.shape[2] :]

    @torch.no_grad()
    def _own_estimate(self, latents: Tensor, text: Tensor, generator: torch.Generator) -> Tensor:
        """The clips as the student itself would leave them: x0 predicted at its last timestep."""
        batch, frames = latents.shape[0], latents.shape[2]
        last = self._config.student.rollout().timesteps[-1] / NUM_TIMESTEPS
        sigma = torch.full((batch, frames), last, device=latents.device)
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)
        noised = add_noise(latents, noise, last)
        return flow_to_x0(noised, self._flow(latents, noised, sigma, text).float(), last)

    def _sigmas(self, batch: int, generator: torch.Generator) -> Tensor:
        """Noise levels [B, T], one a chunk."""
        config, rollout = self._config, self._config.student.rollout()
        chunks = config.frames // rollout.chunk
        drawn = _draw(rollout.timesteps, (batch, chunks), generator)
        drawn[:, 0] = _draw(rollout.first_chunk_timesteps, (batch,), generator)
        anywhere = shift_sigma(stratified_uniform(batch * chunks, generator), rollout.shift)
        anywhere = anywhere[torch.randperm(batch * chunks, generator=generator)].reshape(batch, chunks)
        use_own = torch.rand((batch, chunks), generator=generator) < config.student_timesteps
        return repeat(torch.where(use_own, drawn, anywhere), "b k -> b (k t)", t=rollout.chunk)


def _draw(timesteps: tuple[float, ...], shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Noise levels of timesteps drawn uniformly."""
    levels = torch.tensor(timesteps) / NUM_TIMESTEPS
    return levels[torch.randint(len(levels), shape, generator=generator)]


def _spread(sigma: Tensor) -> Tensor:
    """[B, T] so that it broadcasts against B C T H W."""
    return sigma[:, None, :, None, None]


def run(config: Config) -> bool:
    """Train; True when finished."""
    return train(Supervised(CausalInitTask(config), config), config, stage="causal_init")
