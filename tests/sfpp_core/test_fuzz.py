"""Hundreds of damaged files: each is refused in a sentence, or gives what the whole file gives; never anything else.

`--seed N` draws other damages.
"""

from __future__ import annotations

import io
import random
import time
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch

from sfpp_core.checkpoint.checkpoint import Checkpoint, open_checkpoint
from sfpp_core.checkpoint.errors import CheckpointError
from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.rollout import Rollout
from sfpp_core.rollout.state import RolloutState, StateFileError, load_state, save_state
from sfpp_core.video.reader import VideoFileError, VideoReader
from tests.helpers.fuzzing import BYTES, SAFETENSORS, Damage
from tests.helpers.models import LATENT_HEIGHT, LATENT_WIDTH, TINY, random_text, random_transformer
from tests.helpers.videos import moving_square, write
from training.models.export import StudentConfig, write_student

pytestmark = pytest.mark.endurance

SECONDS = 10
"""Of one file."""


@pytest.fixture
def draw(request: pytest.FixtureRequest) -> random.Random:
    return random.Random(request.config.getoption("--seed"))


def rounds(damages: dict[str, Damage], number: int) -> list[tuple[str, Damage]]:
    """So many damages, each kind at least ten times."""
    assert number >= 10 * len(damages)
    kinds = list(damages.items())
    return [kinds[index % len(kinds)] for index in range(number)]


def in_time(started: float, name: str) -> None:
    assert time.monotonic() - started < SECONDS, f"{name} took longer than {SECONDS} s"


def test_two_hundred_damaged_states(draw: random.Random, tmp_path: Path) -> None:
    config = RolloutConfig(chunk=3, window=6, steps=(1000.0,))
    shape = (1, TINY.in_channels, LATENT_HEIGHT, LATENT_WIDTH)
    rollout = Rollout(
        random_transformer(), RolloutState(config=config, seed=1, model_id="m", shape=shape), random_text()
    )
    with torch.inference_mode():
        list(rollout.run(2))
    save_state(rollout.keep_cache(), tmp_path / "whole.safetensors")
    content, expected = (tmp_path / "whole.safetensors").read_bytes(), load_state(tmp_path / "whole.safetensors")
    ended: Counter[str] = Counter()
    for number, (name, damage) in enumerate(rounds(dict(SAFETENSORS), 200)):
        path, started = tmp_path / f"{number}.safetensors", time.monotonic()
        path.write_bytes(damage(content, draw))
        try:
            state = load_state(path)
        except StateFileError as error:
            assert path.name in str(error)
            ended["refused"] += 1
        else:
            assert torch.equal(state.latents, expected.latents) and state.config == expected.config, (number, name)
            assert (state.seed, state.model_id, state.num_given) == (1, "m", 0), (number, name)
            assert all(map(torch.equal, state.texts, expected.texts)), (number, name)
            ended["whole"] += 1
        in_time(started, f"state {number} ({name})")
        path.unlink()
    assert ended["refused"] > 180, ended


def weights_of(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in checkpoint.state_dict.items()}


def packed(content: bytes, draw: random.Random) -> bytes:
    """A torch file whose entries are compressed, or one of which is a bomb."""
    given, made = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in given.infolist():
            archive.writestr(entry.filename, given.read(entry))
        archive.writestr("archive/more", bytes(draw.randrange(10_000_000)))
    return made.getvalue()


@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_a_hundred_damaged_checkpoints(kind: str, draw: random.Random, tmp_path: Path) -> None:
    network = random_transformer()
    whole = tmp_path / ("whole.safetensors" if kind == "safetensors" else "whole.pt")
    if kind == "safetensors":
        write_student(whole, network, StudentConfig(window=6, steps=[1000.0]), {}, dtype=torch.float16)
    else:
        torch.save({"generator": {f"model.{name}": weight for name, weight in network.state_dict().items()}}, whole)
    content, expected = whole.read_bytes(), weights_of(open_checkpoint(whole))
    damages = dict(SAFETENSORS) if kind == "safetensors" else {**BYTES, "packed": packed}
    ended: Counter[str] = Counter()
    for number, (name, damage) in enumerate(rounds(damages, 100)):
        path, started = tmp_path / f"{number}{whole.suffix}", time.monotonic()
        path.write_bytes(damage(content, draw))
        try:
            weights = weights_of(open_checkpoint(path))
        except CheckpointError as error:
            assert path.name in str(error) and str(error).endswith(".")
            ended["refused"] += 1
        else:
            # Nothing in a torch file of others, and no checksum in it, tells a changed weight from another.
            assert weights.keys() == expected.keys(), (number, name)
            if kind == "safetensors":
                assert all(torch.equal(weights[each], expected[each]) for each in expected), (number, name)
            ended["whole"] += 1
        in_time(started, f"checkpoint {number} ({name})")
        path.unlink()
    assert ended["refused"] > 50, ended


def test_a_hundred_damaged_clips(draw: random.Random, tmp_path: Path) -> None:
    content = write(tmp_path / "whole.mp4", moving_square(24), fps=16).read_bytes()
    ended: Counter[str] = Counter()
    for number, (name, damage) in enumerate(rounds(dict(BYTES), 100)):
        path, started = tmp_path / f"{number}.mp4", time.monotonic()
        path.write_bytes(damage(content, draw))
        try:
            with VideoReader(path) as reader:
                reader.timeline()
                seen = sum(picture.shape == (*reader.size, 3) for _, picture in reader.pictures())
        except VideoFileError as error:
            assert path.name in str(error)
            ended["refused"] += 1
        else:
            assert seen, (number, name)
            ended["seen"] += 1
        in_time(started, f"clip {number} ({name})")
        path.unlink()
    assert ended["refused"] > 20, ended
