"""One step: a window of the student's own films, its distribution-matching gradient, and the critic's updates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from ..board import Board
from ..conditioning import Conditioning
from ..dmd import critic_loss, dmd_loss, gradient_metrics, judge, score_sigmas
from ..export import training_record
from ..micro_batches import micro_batches
from ..models import open_autoencoder
from ..parallel import World
from ..seeding import normal
from ..student import write_student
from ..trained import Trained
from .config import Config
from .networks import open_networks
from .parts import apart, together
from .recording import backpropagate
from .samples import JudgedClips, Sample, Sampler
from .watching import watch_films


class SelfForcingTask:
    """Self-Forcing if a rollout is one window, Self-Forcing++ if it is longer."""

    def __init__(self, config: Config, *, stage: str) -> None:
        self._config, self._stage = config, stage
        parts = micro_batches(World.current().samples(config.batch), config.accumulate)
        self._conditioning = Conditioning.open(config.conditioning, device=config.device)
        text_dim = self._conditioning.negative(1).shape[-1]
        networks = open_networks(config, text_dim=text_dim)
        self._teacher = networks.teacher
        self._student = Trained(networks.student, config.optimizer, steps=config.steps, name="student")
        self._critic = Trained(
            networks.critic,
            config.critic.optimizer,
            steps=config.critic.updates_in(config.steps),
            name="critic",
            key="critic.optimizer",
        )
        self.networks: Mapping[str, Trained] = {"student": self._student, "critic": self._critic}
        # In float32: what teacher and critic are shown should not depend on how coarsely the student computes.
        self._vae = open_autoencoder(config.vae).to(config.device).requires_grad_(False)
        channels = networks.student.config.in_channels
        self._samplers = [
            Sampler(config, self._conditioning, self._vae, samples=part, channels=channels) for part in parts
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
        """Films that go on from step to step."""
        return together([sampler.state() for sampler in self._samplers])

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        for sampler, part in zip(self._samplers, apart(state, len(self._samplers)), strict=True):
            sampler.restore(part)

    def watch(self, board: Board, step: int) -> None:
        """Films of fixed prompts and seeds, and how far their light drifts."""
        watch_films(self._student.network, self._conditioning, self._vae, self._config, board, step)

    def export(self, folder: Path, *, steps: int) -> None:
        """student.safetensors, as the nodes load it."""
        record = training_record(self._config, stage=self._stage, steps=steps)
        write_student(folder / "student.safetensors", self._student.network, self._config.student, record)

    def _fresh(self, step: int, *names: str | int) -> list[JudgedClips]:
        """A window for the critic alone."""
        return [sampler.sample(self._student.network, step, *names).judged for sampler in self._samplers]

    def _samples(self, step: int) -> Iterator[Sample]:
        """The windows that a step teaches the student by, a part of the batch after the other, rolled when asked for:
        each holds the caches that its gradient needs."""
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
