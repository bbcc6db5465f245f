"""How a Self-Forcing run is looked at: the same few films again and again, and how far their light drifts."""

from __future__ import annotations

from sfpp_core.wan.config import FRAMES_PER_SECOND
from sfpp_core.wan.transformer import WanTransformer
from sfpp_core.wan.vae import WanVAE

from ..board import Board
from ..conditioning import Conditioning
from ..parallel import World
from ..sampling import decode, sample_one_by_one
from .config import Config

WATCHED_PROMPTS = 4
COMPARED_FRAMES = 5 * FRAMES_PER_SECOND
"""Pixel frames at either end of a film whose light is compared."""


def watch_films(
    student: WanTransformer, conditioning: Conditioning, vae: WanVAE, config: Config, board: Board, step: int
) -> None:
    """Put films of the first prompts on the board, with how far their light is off in the last 5 s from the first."""
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
    if not World.current().is_main:
        # Films are large: four of 84 latent frames at 832x480 take 6.4 GB.
        return
    videos = decode(vae, latents)
    board.videos("films", videos, step)
    # From [-1, 1] to the display values that exposure is told in; of the means, because the films are large.
    light = videos.mean(dim=(1, 3, 4)) / 2 + 0.5
    drift = light[:, -COMPARED_FRAMES:].mean(dim=1) - light[:, :COMPARED_FRAMES].mean(dim=1)
    board.scalars({"exposure_drift": drift.mean().item(), "exposure_drift_size": drift.abs().mean().item()}, step)
