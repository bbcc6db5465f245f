"""The video autoencoder: Wan 2.1's architecture at a small width, trained on scenes.

Its first latent frame is an image, each later one four frames, as in Wan. When it is trained, an affine map per channel
is folded into the 1x1x1 convolutions around the latents, so that raw latents have the means and deviations of Wan 2.1's
own: what every tool does to Wan latents then fits these.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sfpp_core.rollout.flow import generator_for
from sfpp_core.wan.config import CHANNEL_MEAN, CHANNEL_STD, WAN21
from sfpp_core.wan.vae import WanVAE, WanVAEConfig

from ..causal_init.flow import edge_loss, kl_to_unit_normal
from ..config import TrainConfig, check_starts, phase_at, require
from ..data.scenes import FIRST_HELD_OUT, render, sample_scene
from ..engine.distributed import DistContext
from ..engine.loop import train
from ..engine.metrics import MetricsLogger
from ..engine.seeding import normal
from ..engine.supervised import Loss, Supervised
from ..evaluation.figures import END_FRAMES
from ..models.export import training_record, write_weights
from ..models.kernels import channels_last, channels_last_weights
from ..models.open import open_autoencoder

WATCHED_SCENES = 6
NORMALISING_SCENES = 64
HELD_OUT_FRAMES = END_FRAMES
"""What videos are judged by; longer than any clip of training."""
LATEST_START = 1000
"""Frame number that training clips start before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VAEPhase:
    """A part of the run.

    Many short clips come first, for they teach fastest. Then long ones, because what the causal convolutions see of the
    past grows for dozens of frames, and what they never saw in training they get wrong.
    """

    start: int
    """First step."""
    batch: int
    """Clips a step."""
    frames: int
    """Frames a clip, 4n + 1."""
    crop: int
    """Height and width of the part of the picture that is cut out, at random."""

    def __post_init__(self) -> None:
        require(self.batch >= 1, f"batch of a phase is {self.batch}; it must be at least 1.")
        nearest = WAN21.pixel_frames(WAN21.latent_frames(max(self.frames, 1)))
        require(self.frames == nearest, f"frames of a phase is {self.frames}; it must be 4n + 1. Try {nearest}.")
        stride = WAN21.spatial_stride
        require(
            self.crop >= stride and self.crop % stride == 0, f"crop is {self.crop}; it must be a multiple of {stride}."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class VAEStageConfig(TrainConfig):
    """The vae stage."""

    dim: int = 16
    """Width of the first layer; 96 in Wan 2.1. With `init` it is that of the file."""
    phases: list[VAEPhase]
    """In order of `start`; the first starts at step 0."""
    init: str | None = None
    """File of an autoencoder to go on from."""
    train_encoder: bool = True
    """False trains the decoder alone: latents stay what they are, and so does whatever learnt from them."""
    size: int = 64
    """Height and width of a scene in pixels."""
    squared_weight: float = 0.0
    """Of the squared error, against 1 for the absolute error; it makes small things of the wrong colour count."""
    edge_weight: float = 1.0
    """Of the error of differences between neighbours, against 1 for the absolute error."""
    kl_weight: float = 1e-4
    """Of the KL divergence; it keeps latents smooth, which is what a diffusion model likes."""

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        check_starts([phase.start for phase in self.phases])
        require(
            self.train_encoder or self.init is not None,
            "train_encoder is false without init; name the autoencoder whose decoder is to be trained.",
        )
        require(self.dim >= 1, f"dim is {self.dim}; it must be at least 1.")
        stride = WAN21.spatial_stride
        require(
            self.size >= stride and self.size % stride == 0, f"size is {self.size}; it must be a multiple of {stride}."
        )
        for phase in self.phases:
            require(phase.crop <= self.size, f"crop is {phase.crop}; it must be at most size, {self.size}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class VAEBatch:
    """Clips of scenes."""

    video: Tensor
    """B 3 F H W in [-1, 1]."""
    samples: range
    """Which ones of the step's batch these are."""


class VAETask:
    """Reconstruct clips of scenes."""

    def __init__(self, config: VAEStageConfig) -> None:
        self._config = config
        world = DistContext.current()
        self._samples = {phase.start: world.samples(phase.batch, key="batch of a phase") for phase in config.phases}
        init = config.init
        self.model = open_autoencoder(init, key="init") if init else WanVAE(WanVAEConfig(dim=config.dim))
        for half in (self.model.encoder, self.model.conv1):
            half.requires_grad_(config.train_encoder)
        channels_last_weights(self.model)
        self._reconstruct = self.model.reconstruct
        if config.run.compile:
            self._reconstruct = torch.compile(self._reconstruct, dynamic=False)

    def batch(self, step: int) -> VAEBatch:
        phase = phase_at(self._config.phases, step)
        samples = self._samples[phase.start]
        clips = [self._clip(phase, step, sample) for sample in samples]
        return VAEBatch(video=channels_last(torch.cat(clips)), samples=samples)

    def _clip(self, phase: VAEPhase, step: int, sample: int) -> Tensor:
        """A crop of a scene from a moment of its own, 1 3 F H W."""
        size, crop = self._config.size, phase.crop
        generator = generator_for(self._config.seed, "vae", step, sample)
        offsets = size - crop + 1
        start, top, left = (
            int(torch.randint(stop, (), generator=generator)) for stop in (LATEST_START, offsets, offsets)
        )
        scene = sample_scene(self._config.seed, step * phase.batch + sample)
        return render(scene, start, phase.frames, size, size)[..., top : top + crop, left : left + crop]

    def loss(self, batch: VAEBatch, step: int) -> Loss:
        config, video = self._config, batch.video
        frames, height, width = video.shape[2:]
        cells = (length // WAN21.spatial_stride for length in (height, width))
        shape = (self.model.config.z_dim, WAN21.latent_frames(frames), *cells)
        noise = normal(shape, config.seed, "posterior", step, samples=batch.samples).to(video.device)
        result = self._reconstruct(video, noise=noise)
        error = (result.video - video).float()
        absolute, squared = error.abs().mean(), error.square().mean()
        edges = edge_loss(result.video, video)
        kl = kl_to_unit_normal(result.mean, result.logvar)
        total = absolute + config.squared_weight * squared + config.edge_weight * edges + config.kl_weight * kl
        parts = {"absolute": absolute, "squared": squared, "edges": edges, "kl": kl}
        return Loss(total=total, parts={name: part.detach() for name, part in parts.items()})

    def watch(self, log: MetricsLogger, step: int) -> None:
        clips = held_out_clips(self._config, WATCHED_SCENES).to(self._config.device)
        mean, _ = self.model.encode_moments(clips)
        decoded = self.model.decode_clip(mean).float().clamp(-1, 1)
        log.scalars({"held_out_psnr": psnr(decoded, clips)}, step)
        log.videos("reconstructions", torch.cat([clips, decoded]).cpu(), step)

    @torch.no_grad()
    def export(self, folder: Path, *, steps: int) -> None:
        """Write vae.safetensors, the normalisation of a new encoder folded in; the run's checkpoint has it unfolded."""
        config, weights = self._config, self.model.state_dict()
        if config.train_encoder:
            clips = held_out_clips(config, NORMALISING_SCENES).to(config.device)
            with config.autocast():
                latents = torch.cat([self.model.encode_moments(clip)[0].float() for clip in clips.split(4)])
            weights = fold_normalisation({name: weight.cpu() for name, weight in weights.items()}, latents.cpu())
        record = training_record(config, stage="vae", steps=steps)
        header = {"kind": "vae", "dim": self.model.config.dim, "training": record}
        write_weights(folder / "vae.safetensors", weights, header, dtype=torch.float16)


def held_out_clips(config: VAEStageConfig, count: int) -> Tensor:
    """Clips of HELD_OUT_FRAMES of scenes that training never sees, B 3 F H W."""
    scenes = [sample_scene(config.seed, FIRST_HELD_OUT + index) for index in range(count)]
    return channels_last(render(scenes, 0, HELD_OUT_FRAMES, config.size, config.size))


def psnr(video: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in decibels of pixels in [-1, 1], over the whole batch."""
    return (-10 * ((video - target).float() / 2).square().mean().log10()).item()


def fold_normalisation(weights: dict[str, Tensor], latents: Tensor) -> dict[str, Tensor]:
    """Weights of the same autoencoder whose raw latents have Wan 2.1's mean and deviation in every channel.

    With raw latents z of mean m and deviation s, and Wan's M and S, the encoder is to emit z' = (z - m) S / s + M, and
    the decoder to undo that first. Both are affine per channel, so conv1 and conv2, which are 1x1x1, take them in.

    latents: raw latents that the weights emit, B C T H W, enough of them for a mean and deviation.
    """
    mean, std = latents.double().mean(dim=(0, 2, 3, 4)), latents.double().std(dim=(0, 2, 3, 4))
    wan_mean, wan_std = (torch.tensor(values, dtype=torch.float64) for values in (CHANNEL_MEAN, CHANNEL_STD))
    gain = wan_std / std
    channels = len(gain)

    folded = {name: weight.clone() for name, weight in weights.items()}
    weight, bias = weights["conv1.weight"].double(), weights["conv1.bias"].double()
    # The second half of conv1 emits log-variances, which the gain moves by 2 log(gain).
    folded["conv1.weight"] = torch.cat([weight[:channels] * gain[:, None, None, None, None], weight[channels:]]).float()
    folded["conv1.bias"] = torch.cat(
        [(bias[:channels] - mean) * gain + wan_mean, bias[channels:] + 2 * gain.log()]
    ).float()
    weight, bias = weights["conv2.weight"].double(), weights["conv2.bias"].double()
    folded["conv2.weight"] = (weight / gain[None, :, None, None, None]).float()
    folded["conv2.bias"] = (bias + weight[:, :, 0, 0, 0] @ (mean - wan_mean / gain)).float()
    return folded


CONFIG = VAEStageConfig


def run(config: VAEStageConfig) -> bool:
    """Train; True when finished."""
    return train(Supervised(VAETask(config), config), config, stage="vae")
