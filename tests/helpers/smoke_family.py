"""The built-in family at its smallest, through the command line's own entry: two steps a stage, 32x32 pixels."""

from __future__ import annotations

from pathlib import Path

from training.__main__ import main

CONFIGS = Path(__file__).parents[2] / "training" / "configs" / "tiny"
# Half precision is many times slower where a processor has none of its own.
FULL_PRECISION = ("precision=float32", "optimizer.muon_precision=float32")
SHORT = (
    *("optimizer.warmup=1", "optimizer.decay=1", "run.workers=0", "run.watch_every=2", "run.log_every=1"),
    *FULL_PRECISION,
)
SIZE = 32
FRAMES = 6
"""Latent frames of the teacher's clips: two chunks."""


def run_stage(name: str, folder: Path, *words: str, config: str | None = None, out: str | None = None) -> Path:
    """Run a stage with a configuration of the built-in family, by default its own, into `folder / out`."""
    target = folder / (out or name)
    file = CONFIGS / f"{config or name}.yaml"
    assert main([name, "--config", str(file), f"run.out={target}", *words]) == 0
    return target


def teacher_words(folder: Path) -> list[str]:
    """Where a stage finds the family's teacher and text encoder."""
    return [f"{part}={folder / 'teacher' / part}.safetensors" for part in ("teacher", "text_encoder")]


def vae_word(folder: Path) -> str:
    """Where a stage finds the family's autoencoder."""
    return f"vae={folder / 'vae' / 'vae.safetensors'}"


def make_teacher(folder: Path) -> None:
    """Autoencoder, encoded clips, reader, teacher with its text encoder."""
    phases = "phases=[{start: 0, batch: 1, frames: 5, crop: 16}]"
    run_stage("vae", folder, *SHORT, "steps=2", "dim=4", f"size={SIZE}", phases)
    vae = vae_word(folder)
    run_stage(
        "latents", folder, vae, "clips=4", "shard=2", "batch=1", f"frames={FRAMES}", f"size={SIZE}", "precision=float32"
    )
    run_stage("reader", folder, *SHORT, "steps=2", "batch=2", f"size={SIZE}")
    model = "model={dim: 128, ffn_dim: 64, num_layers: 1}"
    few, all_four = (f"[{{folder: {folder / 'latents'}, clips: {clips}}}]" for clips in (2, 4))
    first = f"{{start: 0, data: {few}, batch: 2, frames: 2}}"
    phases = f"phases=[{first}, {{start: 1, data: {all_four}, batch: 2, frames: {FRAMES}}}]"
    run_stage("teacher", folder, *SHORT, vae, model, phases, "steps=2", "sample_steps=2")
