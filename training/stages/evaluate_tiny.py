"""Judge the built-in family: does the reader find in its videos what their prompts name, and do they last?

Writes report.json, contact sheets and videos. Accuracy is the share of videos in which an attribute is read as
prompted; luminance is told for the first and the last window, because a video that drifts goes dark or bright.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from sfpp_core.files import replacing
from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.flow import generator_for
from sfpp_core.tiny.family import load_family_text_encoder, load_student, load_teacher, load_vae
from sfpp_core.tiny.text import TinyTextEncoder
from sfpp_core.wan.config import FRAMES_PER_SECOND, WAN21, to_model_space
from sfpp_core.wan.transformer import WanTransformer
from sfpp_core.wan.vae import WanVAE

from ..config import StageConfig, core_refusals, require, usable
from ..data.scenes import FIRST_HELD_OUT, Attributes, SceneSpec, render, sample_scene
from ..data.scenes import prompt_for as prompt_of
from ..engine.metrics import contact_sheet, save_picture, save_video
from ..engine.run_folder import RunFolder
from ..evaluation.truth import light_of, open_reader
from ..models.sampling import decode, encode_prompts, sample_student, sample_teacher
from ..reader import AttributeReader, accuracy, read
from .vae import psnr

logger = logging.getLogger(__name__)

OpenedT = TypeVar("OpenedT")

SHOWN = 8
"""Videos on a contact sheet and in an MP4."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateTinyStageConfig(StageConfig):
    """The evaluate_tiny stage. Files default to the shipped ones."""

    reader: str
    """File of the reader."""
    vae: str | None = None
    text_encoder: str | None = None
    teacher: str | None = None
    student: str | None = None
    prompts: int = 48
    """Held-out prompts, one video of the teacher each."""
    student_prompts: int = 16
    """How many of them the student makes its long videos of."""
    batch: int = 8
    """Videos made at once."""
    size: int = 64
    """Height and width in pixels."""
    teacher_frames: int = 21
    """Latent frames of a teacher's sample."""
    student_seconds: float = 60.0
    """Length of the student's rollouts; 0 judges the teacher alone."""
    guidance: float = 3.0
    sample_steps: int = 30
    shift: float = 4.0
    """Of the teacher's sampler."""

    def __post_init__(self) -> None:
        StageConfig.__post_init__(self)
        for name in ("prompts", "student_prompts", "batch", "teacher_frames", "sample_steps"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1.")
        require(
            self.student_prompts <= self.prompts,
            f"student_prompts is {self.student_prompts}; it must be at most prompts, {self.prompts}.",
        )
        require(self.student_seconds >= 0, f"student_seconds is {self.student_seconds}; it must be 0 or more.")
        with core_refusals():
            WAN21.latent_size(self.size, self.size)

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width in latent cells."""
        return WAN21.latent_size(self.size, self.size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Judges:
    """The parts that every measurement needs."""

    prompts: list[str]
    expected: list[Attributes]
    text_encoder: TinyTextEncoder
    vae: WanVAE
    teacher: WanTransformer
    student: WanTransformer
    rollout: RolloutConfig
    """What the student was trained for."""
    reader: AttributeReader
    folder: Path


CONFIG = EvaluateTinyStageConfig


def run(config: EvaluateTinyStageConfig) -> bool:
    """Measure and write the report; returns True."""
    scenes = [sample_scene(config.seed, FIRST_HELD_OUT + index) for index in range(config.prompts)]
    judges = _open_judges(config, scenes)
    folder = RunFolder(config, stage="evaluate_tiny").path
    truth = render(scenes, 0, WAN21.pixel_frames(config.teacher_frames), config.size, config.size)
    with torch.no_grad(), config.autocast():
        report = {"truth": _judge(truth, judges), "vae": _judge_vae(truth, judges)}
        report["teacher"] = _judge(_show("teacher", _teacher_videos(judges, config), judges), judges)
        if config.student_seconds:
            report["student"] = _judge_student(judges, config)
    with replacing(folder / "report.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    logger.info("report: %s", json.dumps(report))
    return True


def _open_judges(config: EvaluateTinyStageConfig, scenes: Sequence[SceneSpec]) -> Judges:
    """Raises ConfigError if a file is not there or holds something else."""
    student, rollout = _open("student", config.student, load_student)
    return Judges(
        prompts=[prompt_of(scene) for scene in scenes],
        expected=[scene.attributes for scene in scenes],
        text_encoder=_open("text_encoder", config.text_encoder, load_family_text_encoder).to(config.device),
        vae=_open("vae", config.vae, load_vae).to(config.device),
        teacher=_open("teacher", config.teacher, load_teacher).to(config.device),
        student=student.to(config.device),
        rollout=rollout,
        reader=open_reader(config.reader).to(config.device),
        folder=Path(config.run.out),
    )


def _open(key: str, path: str | None, load: Callable[[Path | None], OpenedT]) -> OpenedT:
    """A part of the family, by default the pack's own."""
    with usable(f"{key}: {path}", instead=f"name a {key}.safetensors of its stage"):
        return load(None if path is None else Path(path))


def _judge(videos: Tensor, judges: Judges) -> dict[str, float]:
    """Accuracy by attribute, and mean luminance in [0, 1]."""
    found = accuracy(read(judges.reader, videos), judges.expected[: len(videos)])
    return {**{name: round(share, 4) for name, share in found.items()}, "luminance": round(_luminance(videos), 4)}


def _judge_vae(truth: Tensor, judges: Judges) -> dict[str, float]:
    """Return what the autoencoder alone loses, in the precision of its weights, as videos are decoded."""
    device = next(judges.vae.parameters()).device
    with torch.autocast(device.type, enabled=False):
        latents = torch.cat([judges.vae.encode(clip.to(device)) for clip in truth.split(1)])
    decoded = decode(judges.vae, to_model_space(latents))
    return {**_judge(decoded, judges), "psnr": round(psnr(decoded, truth), 2)}


def _teacher_videos(judges: Judges, config: EvaluateTinyStageConfig) -> Tensor:
    network, videos = judges.teacher, []
    for first, prompts in _batches("teacher", judges.prompts, config.batch):
        text = encode_prompts(judges.text_encoder, prompts)
        unconditional = encode_prompts(judges.text_encoder, [""] * len(prompts))
        shape = (len(prompts), network.config.in_channels, config.teacher_frames, *config.latent_size)
        noise = torch.randn(shape, generator=generator_for(config.seed, "evaluate", first))
        latents = sample_teacher(
            network, text, unconditional, noise, steps=config.sample_steps, shift=config.shift, guidance=config.guidance
        )
        videos.append(decode(judges.vae, latents))
    return torch.cat(videos)


def _judge_student(judges: Judges, config: EvaluateTinyStageConfig) -> dict[str, dict[str, float]]:
    """The first and the last window of long rollouts, each as long as a teacher's sample."""
    frames = WAN21.latent_frames(round(config.student_seconds * FRAMES_PER_SECOND))
    window = WAN21.pixel_frames(config.teacher_frames)
    first_windows, last_windows, shown = [], [], []
    for first, prompts in _batches("student", judges.prompts[: config.student_prompts], config.batch):
        text = encode_prompts(judges.text_encoder, prompts)
        latents = sample_student(
            judges.student,
            text,
            config=judges.rollout,
            seed=config.seed + first,
            frames=frames,
            size=config.latent_size,
            dtype=config.compute_dtype,
        )
        videos = decode(judges.vae, latents)
        first_windows.append(videos[:, :, :window])
        last_windows.append(videos[:, :, -window:].clone())
        if not shown:
            shown.append(_show("student", videos, judges))
    return {
        "first_window": _judge(torch.cat(first_windows), judges),
        "last_window": _judge(torch.cat(last_windows), judges),
    }


def _show(name: str, videos: Tensor, judges: Judges) -> Tensor:
    """Write a contact sheet and an MP4 of the first videos; returns all of them."""
    save_picture(contact_sheet(videos[:SHOWN], columns=12), judges.folder / f"{name}.png")
    save_video(videos[:SHOWN], judges.folder / f"{name}.mp4")
    return videos


def _batches(name: str, prompts: Sequence[str], batch: int) -> list[tuple[int, Sequence[str]]]:
    """Pieces of the prompts, each with the index of its first, under a progress bar."""
    pieces = [(first, prompts[first : first + batch]) for first in range(0, len(prompts), batch)]
    return tqdm(pieces, desc=name, unit="batch")


def _luminance(videos: Tensor) -> float:
    return light_of(videos)[:, 0].mean().item()
