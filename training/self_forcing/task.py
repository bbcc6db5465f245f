"""One step of Self-Forcing(++): a window of self-rollouts, its DMD gradient, and the critic's updates.

A run is watched by the same few videos again and again, and by how far their light drifts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from sfpp_core.wan.config import FRAMES_PER_SECOND
from sfpp_core.wan.transformer import WanTransformer
from sfpp_core.wan.vae import WanVAE

from ..data.prompt_embeds import Conditioning
from ..engine.distributed import DistContext, place, place_frozen
from ..engine.metrics import MetricsLogger
from ..engine.micro_batches import apart, micro_batches, together
from ..engine.model_state import TrainableModel
from ..engine.seeding import normal
from ..models.export import training_record, write_student
from ..models.kernels import attention_on, compile_network
from ..models.open import open_autoencoder, open_transformer
from ..models.sampling import decode, sample_one_by_one
from .config import SfppStageConfig
from .dmd import critic_loss, dmd_loss, gradient_metrics, judge, score_sigmas
from .rollouts import backpropagate
from .samples import JudgedClips, Sample, WindowSampler


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Networks:
    """The networks: who rolls out, and who judges."""

    student: WanTransformer
    teacher: WanTransformer
    """Frozen."""
    critic: WanTransformer


def open_networks(config: SfppStageConfig, *, text_dim: int) -> Networks:
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


WATCHED_PROMPTS = 4
COMPARED_FRAMES = 5 * FRAMES_PER_SECOND
"""Pixel frames at either end of a video whose light is compared."""


def watch_videos(
    student: WanTransformer,
    conditioning: Conditioning,
    vae: WanVAE,
    config: SfppStageConfig,
    log: MetricsLogger,
    step: int,
) -> None:
    """Log videos of the first prompts, with how far their light is off in the last 5 s from the first."""
    count = min(WATCHED_PROMPTS, len(conditioning.prompts))
    latents = sample_one_by_one(
        student,
        conditioning.text(range(count)).to(config.device),
        config=config.student.rollout(),
        seed=config.seed,
        frames=config.watch_frames,
        size=config.latent_size,
        dtype=config.compute_dtype,
    )
    if not DistContext.current().is_main:
        # Videos are large: four of 84 latent frames at 832x480 take 6.4 GB.
        return
    videos = decode(vae, latents)
    log.videos("films", videos, step)
    # From [-1, 1] to the display values that exposure is told in; of the means, because the videos are large.
    light = videos.mean(dim=(1, 3, 4)) / 2 + 0.5
    drift = light[:, -COMPARED_FRAMES:].mean(dim=1) - light[:, :COMPARED_FRAMES].mean(dim=1)
    log.scalars({"exposure_drift": drift.mean().item(), "exposure_drift_size": drift.abs().mean().item()}, step)


class SelfForcingTask:
    """Self-Forcing if a rollout is one window, Self-Forcing++ if it is longer."""

    def __init__(self, config: SfppStageConfig, *, stage: str) -> None:
        self._config, self._stage = config, stage
        parts = micro_batches(DistContext.current().samples(config.batch), config.accumulate)
        self._conditioning = Conditioning.open(config.conditioning, device=config.device)
        text_dim = self._conditioning.negative(1).shape[-1]
        networks = open_networks(config, text_dim=text_dim)
        self._teacher = networks.teacher
        self._student = TrainableModel(networks.student, config.optimizer, steps=config.steps, name="student")
        self._critic = TrainableModel(
            networks.critic,
            config.critic.optimizer,
            steps=config.critic.updates_in(config.steps),
            name="critic",
            key="critic.optimizer",
        )
        self.networks: Mapping[str, TrainableModel] = {"student": self._student, "critic": self._critic}
        # In float32: what teacher and critic are shown should not depend on how coarsely the student computes.
        self._vae = open_autoencoder(config.vae).to(config.device).requires_grad_(False)
        channels = networks.student.config.in_channels
        self._samplers = [
            WindowSampler(config, self._conditioning, self._vae, samples=part, channels=channels) for part in parts
        ]

    def batch(self, step: int) -> None:
        """Nothing: the student makes its own clips."""

    def train_step(self, batch: None, step: int) -> dict[str, float]:
        """An update of the student, then those of the critic; see loop.Task."""
        del batch
        critic = self._config.critic
        if step == 0:
            for number in range(critic.warmup_updates):
                self._update_critic(self._fresh(step, "warm-up", number), number)
        if critic.learns_first:
            samples = list(self._samples(step))
            learnt = self._train_critic([sample.judged for sample in samples], step)
            _, metrics = self._update_student(samples, step)
        else:
            clips, metrics = self._update_student(self._samples(step), step)
            learnt = self._train_critic(clips, step)
        return {**metrics, **learnt}

    def state(self) -> dict[str, Any]:
        """Videos that go on from step to step."""
        return together([sampler.state() for sampler in self._samplers])

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        for sampler, part in zip(self._samplers, apart(state, len(self._samplers)), strict=True):
            sampler.restore(part)

    def watch(self, log: MetricsLogger, step: int) -> None:
        """Log videos of fixed prompts and seeds, and how far their light drifts."""
        watch_videos(self._student.network, self._conditioning, self._vae, self._config, log, step)

    def export(self, folder: Path, *, steps: int) -> None:
        """student.safetensors, as the nodes load it."""
        record = training_record(self._config, stage=self._stage, steps=steps)
        write_student(folder / "student.safetensors", self._student.network, self._config.student, record)

    def _fresh(self, step: int, *names: str | int) -> list[JudgedClips]:
        """A window for the critic alone."""
        return [sampler.sample(self._student.network, step, *names).judged for sampler in self._samplers]

    def _samples(self, step: int) -> Iterator[Sample]:
        """Yield the windows that a step teaches the student by, one part of the batch after the other.

        Each is rolled when asked for, because it holds the caches that its gradient needs.
        """
        for sampler in self._samplers:
            yield sampler.sample(self._student.network, step, "student", with_gradient=True)

    def _update_student(self, samples: Iterable[Sample], step: int) -> tuple[list[JudgedClips], dict[str, float]]:
        """One update, a part of the batch after the other; what was judged, and metrics."""
        clips, found = [], []
        for sample in samples:
            found.append(self._teach(sample, step))
            clips.append(sample.judged)
        return clips, {**_means(found), **self._student.update(step)}

    def _teach(self, sample: Sample, step: int) -> dict[str, float]:
        """Add a part of the batch to the student's gradient; metrics."""
        config, clip, recording = self._config, sample.judged.clip, sample.rolled.recording
        gradient = self._judge(sample.judged, step)
        frames = clip.latents.detach().requires_grad_()
        loss = dmd_loss(frames, gradient, clip.mask)
        (pushed,) = torch.autograd.grad(loss / len(self._samplers), frames)
        pushed = pushed[:, :, sample.rolled.num_old :]
        if config.reading == "chain":
            backpropagate(self._student.network, recording, pushed, autocast=config.autocast)
        else:
            sample.x0.backward(pushed)
        start = float(sample.rolled.window.start)
        return {"dmd_loss": loss.item(), **gradient_metrics(gradient, clip.mask), "window_start": start}

    def _judge(self, judged: JudgedClips, step: int) -> torch.Tensor:
        """The gradient of distribution matching with respect to the clips, float64."""
        config, latents = self._config, judged.clip.latents
        noise = normal(latents.shape[1:], config.seed, "student", step, samples=judged.samples)
        with config.autocast():
            return judge(
                latents,
                noise.to(latents),
                score_sigmas(config.dmd, config.seed, "student", step, samples=judged.samples),
                teacher=self._teacher,
                critic=self._critic.network,
                text=judged.text,
                negative=self._conditioning.negative(len(latents)).to(latents),
                config=config.dmd,
            )

    def _train_critic(self, clips: Sequence[JudgedClips], step: int) -> dict[str, float]:
        """A step's updates of the critic, on these clips or on windows of its own; the means of their metrics."""
        critic, found = self._config.critic, []
        for number in range(critic.updates):
            if critic.windows == "fresh":
                clips = self._fresh(step, "critic", number)
            found.append(self._update_critic(clips, critic.warmup_updates + step * critic.updates + number))
        return _means(found)

    def _update_critic(self, clips: Sequence[JudgedClips], update: int) -> dict[str, float]:
        """One update on a batch, a part after the other; metrics."""
        config, losses = self._config, []
        for judged in clips:
            latents, mask = judged.clip.latents, judged.clip.mask
            sigma = score_sigmas(config.dmd, config.seed, "critic", update, samples=judged.samples)
            noise = normal(latents.shape[1:], config.seed, "critic", update, samples=judged.samples)
            with config.autocast():
                loss = critic_loss(self._critic.network, latents, noise.to(latents), sigma, judged.text, mask)
            (loss / len(clips)).backward()
            losses.append(loss.item())
        metrics = {"loss": fmean(losses), **self._critic.update(update)}
        return {f"critic_{name}": value for name, value in metrics.items()}


def _means(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: fmean(each[name] for each in metrics) for name in metrics[0]}
