"""One step: a window of the student's own films, its distribution-matching gradient, and the critic's updates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..board import Board
from ..conditioning import Conditioning
from ..config import PRECISIONS
from ..divergence import require_finite
from ..dmd import critic_loss, dmd_loss, gradient_metrics, judge, score_sigmas
from ..export import training_record
from ..models import open_autoencoder, open_transformer
from ..parallel import World
from ..seeding import generator_for, normal
from ..student import write_student
from ..trained import Trained
from ..windows import Clip, as_clip
from .config import Config
from .recording import backpropagate
from .renoised import denoise_again
from .sources import Restarting, Rolled, Stage, Streaming, WindowSource
from .watching import watch_films


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """A window of the student's, ready to be judged."""

    rolled: Rolled
    x0: Tensor
    """The recorded frames as they are judged, [B, C, T, H, W]; in the renoised reading they have a graph."""
    clip: Clip
    """The window that ends with them, as a short video of its own."""


class SelfForcingTask:
    """Self-Forcing if a rollout is one window, Self-Forcing++ if it is longer."""

    def __init__(self, config: Config, *, stage: str) -> None:
        self._config, self._stage_name, self._device = config, stage, config.device
        self._samples = World().samples(config.batch)
        self._conditioning = Conditioning.open(config.conditioning, device=self._device)
        self._vae = open_autoencoder(config.vae).to(self._device).requires_grad_(False)
        self._teacher = open_transformer(config.teacher).to(self._device).requires_grad_(False)
        self._student = Trained(open_transformer(config.init).to(self._device), config.optimizer, steps=config.steps)
        critic = open_transformer(config.critic.init or config.teacher).to(self._device)
        critic_updates = config.critic.updates_in(config.steps)
        self._critic = Trained(critic, config.critic.optimizer, steps=critic_updates)
        self.networks: Mapping[str, Trained] = {"student": self._student, "critic": self._critic}
        self._source = self._open_source()

    def batch(self, step: int) -> None:
        """Nothing: the student makes its own clips."""

    def train_step(self, batch: None, step: int) -> dict[str, float]:
        """An update of the student, then those of the critic; see loop.Task."""
        del batch
        critic = self._config.critic
        if step == 0:
            for number in range(critic.warmup_updates):
                self._update_critic(self._sample(step, "warm-up", number), number)
        sample = self._sample(step, "student", with_gradient=True)
        metrics = self._update_student(sample, step)
        losses = []
        for number in range(critic.updates):
            if critic.windows == "fresh":
                sample = self._sample(step, "critic", number)
            losses.append(self._update_critic(sample, critic.warmup_updates + step * critic.updates + number))
        return {**metrics, "critic_loss": sum(losses) / len(losses)}

    def state(self) -> dict[str, Any]:
        """Films that go on from step to step."""
        return self._source.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._source.restore(state)

    def watch(self, board: Board, step: int) -> None:
        """Films of fixed prompts and seeds, and how far their light drifts."""
        watch_films(self._student.network, self._conditioning, self._vae, self._config, board, step)

    def export(self, folder: Path) -> None:
        """student.safetensors, as the nodes load it."""
        record = training_record(self._config, stage=self._stage_name)
        write_student(folder / "student.safetensors", self._student.network, self._config.student, record)

    def _sample(self, step: int, *names: str | int, with_gradient: bool = False) -> Sample:
        """Roll a window and make it what teacher and critic can judge."""
        config, window_config = self._config, self._config.window
        dropped = self._dropped_steps(step, *names)
        chain = config.reading == "chain"
        with config.autocast():
            rolled = self._source.roll(self._student.network, step, *names, dropped_steps=dropped if chain else 0)
        film, first = rolled.recording.after.latents, rolled.recording.before.num_frames
        x0 = film[:, :, first:]
        if not chain:
            noise = normal(x0.shape[1:], config.seed, "renoise", step, *names, samples=self._samples)
            timestep = config.student.rollout().timesteps[-1 - dropped]
            with config.autocast(), torch.set_grad_enabled(with_gradient):
                x0 = denoise_again(self._student.network, rolled.recording, noise, timestep)
            film = torch.cat([film[:, :, :first], x0.detach().to(film)], dim=2)
        window = rolled.window
        frames = film[:, :, window.with_warmup].to(self._device)
        with config.autocast():
            clip = as_clip(frames, self._vae, window, masked_frames=window_config.masked_frames)
        is_new = torch.arange(window.frames, device=clip.mask.device) >= rolled.num_old
        return Sample(rolled=rolled, x0=x0, clip=replace(clip, mask=clip.mask & is_new[None, None, :, None, None]))

    def _update_student(self, sample: Sample, step: int) -> dict[str, float]:
        config, clip = self._config, sample.clip
        recording = sample.rolled.recording
        text = recording.films.text.to(self._device)
        sigma = score_sigmas(config.dmd, config.seed, "student", step, samples=self._samples)
        noise = normal(clip.latents.shape[1:], config.seed, "student", step, samples=self._samples)
        with config.autocast():
            gradient = judge(
                clip.latents,
                noise.to(self._device),
                sigma,
                teacher=self._teacher,
                critic=self._critic.network,
                text=text,
                negative=self._conditioning.negative(len(text)).to(self._device),
                config=config.dmd,
            )
        frames = clip.latents.detach().requires_grad_()
        loss = dmd_loss(frames, gradient, clip.mask)
        (pushed,) = torch.autograd.grad(loss, frames)
        pushed = pushed[:, :, sample.rolled.num_old :]
        if config.reading == "chain":
            backpropagate(self._student.network, recording, pushed, autocast=config.autocast)
        else:
            sample.x0.backward(pushed)
        return {
            "dmd_loss": loss.item(),
            **gradient_metrics(gradient, clip.mask),
            **self._student.update(step),
            "window_start": float(sample.rolled.window.start),
        }

    def _update_critic(self, sample: Sample, update: int) -> float:
        config, clip = self._config, sample.clip
        sigma = score_sigmas(config.dmd, config.seed, "critic", update, samples=self._samples)
        noise = normal(clip.latents.shape[1:], config.seed, "critic", update, samples=self._samples)
        text = sample.rolled.recording.films.text.to(self._device)
        with config.autocast():
            loss = critic_loss(self._critic.network, clip.latents, noise.to(self._device), sigma, text, clip.mask)
        value = loss.item()
        require_finite("the critic's loss", value)
        loss.backward()
        self._critic.update(update)
        return value

    def _dropped_steps(self, step: int, *names: str | int) -> int:
        if self._config.gradient_step == "last":
            return 0
        choices = len(self._config.student.steps)
        return int(torch.randint(choices, (), generator=generator_for(self._config.seed, "exit", step, *names)))

    def _open_source(self) -> WindowSource:
        config = self._config
        stage = Stage(
            conditioning=self._conditioning,
            config=config.student.rollout(),
            window=config.window,
            seed=config.seed,
            samples=self._samples,
            size=config.latent_size,
            channels=self._student.network.config.in_channels,
            device=self._device,
            dtype=PRECISIONS[config.precision],
        )
        return Streaming(stage) if config.history == "streaming" else Restarting(stage)
