"""The weights that are shipped: they load, they fit each other, and they make what prompts name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.tiny.family import (
    PARTS,
    load_family_text_encoder,
    load_student,
    load_teacher,
    load_vae,
    weights_path,
)
from sfpp_core.wan.config import to_model_space
from training.data.scenes import Place, prompt_for, render, sample_scene
from training.models.sampling import decode, encode_prompts, sample_student
from training.reader import accuracy, load_reader, read
from training.stages.vae import FIRST_HELD_OUT, psnr

MEBIBYTE = 2**20
FOR_TRAINING = Path(__file__).parents[2] / "training" / "weights"
_SCENES = [sample_scene(11, FIRST_HELD_OUT + index) for index in range(64)]
HELD_OUT = [next(scene for scene in _SCENES if scene.attributes.place is place) for place in Place]


@pytest.fixture(scope="module")
def clips() -> Tensor:
    return render(HELD_OUT, 0, 33, 64, 64)


def test_the_family_is_small_and_says_how_it_was_made() -> None:
    assert sum(weights_path(part).stat().st_size for part in PARTS) < 40 * MEBIBYTE
    for part in PARTS:
        with safe_open(weights_path(part), framework="pt") as file:
            header = json.loads(file.metadata()["sfpp"])
        assert header["kind"] == part
        assert header["training"]["config"]["seed"] == header["training"]["seed"]


def test_a_part_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="'critic' is no part of the built-in family"):
        weights_path("critic")


def test_teacher_and_student_are_one_architecture_and_read_the_encoders_text() -> None:
    student, rollout = load_student()
    teacher = load_teacher()
    assert student.config == teacher.config
    assert student.config.text_dim == load_family_text_encoder().config.text_dim
    assert student.config.dim % 128 == 0 and student.config.num_heads == student.config.dim // 128
    assert rollout == RolloutConfig()


@torch.no_grad()
def test_the_autoencoder_gives_back_scenes_it_never_saw(clips: Tensor) -> None:
    vae = load_vae()
    mean, _ = vae.encode_moments(clips)
    assert psnr(vae.decode_clip(mean).clamp(-1, 1), clips) > 26
    normal = to_model_space(mean)
    assert abs(normal.mean().item()) < 0.25
    assert 0.7 < normal.std().item() < 1.3


def test_the_student_paints_the_place_that_the_prompt_names(clips: Tensor) -> None:
    student, rollout = load_student()
    text = encode_prompts(load_family_text_encoder(), [prompt_for(scene) for scene in HELD_OUT])
    latents = sample_student(student, text, config=rollout, seed=1, frames=6, size=(8, 8))
    videos = decode(load_vae(), latents)
    colours, truth = (video.mean(dim=(2, 4)) for video in (videos, clips[:, :, : videos.shape[2]]))
    distances = torch.cdist(colours.flatten(1), truth.flatten(1))
    places = [scene.attributes.place for scene in HELD_OUT]
    for row, place in zip(distances, places, strict=True):
        assert places[int(row.argmin())] is place


def test_the_initialisation_that_ships_for_training_is_a_student_of_the_family() -> None:
    """What self_forcing.yaml and sfpp.yaml begin with."""
    initialisation, rollout = load_student(FOR_TRAINING / "causal_init.safetensors")
    student, _ = load_student()
    assert initialisation.config == student.config
    assert replace(rollout, first_chunk_steps=()) == RolloutConfig()


def test_the_reader_that_ships_tells_true_scenes_by_what_they_show() -> None:
    """Whom evaluations ask whether videos show what was prompted."""
    readings = read(load_reader(FOR_TRAINING / "reader.safetensors"), render(HELD_OUT, 0, 81, 64, 64))
    right = accuracy(readings, [scene.attributes for scene in HELD_OUT])
    assert set(right.values()) == {1.0}
