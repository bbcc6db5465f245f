"""One update of `training.nano_sfpp` is one update of the real stage: every weight of student and critic, in float64.

Both run under a mode in which PyTorch makes no float32, so that what differs is arithmetic and not rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sfpp_core.wan import attention
from sfpp_core.wan.config import WanConfig
from tests.helpers.models import random_transformer
from tests.helpers.vae_models import random_vae
from training import nano_sfpp
from training.config import load_config
from training.engine.seeding import normal
from training.models.export import StudentConfig, write_student, write_weights
from training.self_forcing.dmd import score_sigmas
from training.self_forcing.task import SelfForcingTask
from training.self_forcing.windows import WARMUP_FRAMES, draw_window
from training.stages import sfpp

CONFIG = Path(__file__).parents[2] / "training" / "configs" / "tiny" / "sfpp.yaml"
MODEL = WanConfig(dim=128, ffn_dim=64, num_heads=2, num_layers=2, text_dim=4096, freq_dim=32)
BATCH, SIZE, CHUNK, JUDGED = 2, 32, 3, 9
BEGINNING, LATER, LATE = 2, 1, 10
"""Seeds by where the window that they judge begins: at frame 0, once the cache has begun to evict, and long after."""


class InDouble(TorchFunctionMode):
    """Float64 wherever float32 is asked for."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function is Tensor.float:
            return args[0].double()
        swapped = tuple(map(self._swapped, args))
        return function(*swapped, **{name: self._swapped(value) for name, value in (kwargs or {}).items()})

    @staticmethod
    def _swapped(value: Any) -> Any:
        return torch.float64 if value is torch.float32 else value


@contextmanager
def in_double() -> Iterator[None]:
    """What is computed inside is float64, rotary tables that are kept for the next call included."""
    usual = torch.get_default_dtype()
    attention._kept_table.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        with InDouble():
            yield
    finally:
        torch.set_default_dtype(usual)
        attention._kept_table.cache_clear()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Configuration words for networks of random weights."""
    folder = tmp_path_factory.mktemp("networks")
    words = {name: folder / f"{name}.safetensors" for name in ("init", "teacher", "vae")}
    student = StudentConfig(steps=[1000.0, 750.0, 500.0])
    write_student(words["init"], random_transformer(MODEL, seed=1), student, {}, dtype=torch.float32)
    teacher = random_transformer(MODEL, seed=2).state_dict()
    write_weights(words["teacher"], teacher, {"kind": "teacher", "model": asdict(MODEL)}, dtype=torch.float32)
    write_weights(words["vae"], random_vae(dim=4).state_dict(), {"kind": "vae"}, dtype=torch.float32)
    words["conditioning.prompts"] = folder / "prompts.txt"
    words["conditioning.prompts"].write_text("A red ball bounces.\nA blue boat glides to the left.\nSnow.\n")
    return [f"{name}={path}" for name, path in words.items()]


def task_of(files: list[str], *, seed: int, sink: int) -> SelfForcingTask:
    """The real stage's task in float64, before its first step."""
    words = ["run.out=any", "run.workers=0", "run.device=cpu", f"seed={seed}", "steps=2", "precision=float32"]
    words += [f"batch={BATCH}", f"width={SIZE}", f"height={SIZE}", "conditioning.text_encoder=null"]
    words += [f"student.chunk={CHUNK}", "student.window=9", f"student.sink={sink}", "student.steps=[1000,750,500]"]
    words += [f"window.frames={JUDGED}", "window.rollout_frames=24", "window.masked_frames=4", "window.ramp_updates=0"]
    words += ["window.first_window_probability=0", "history=restart", "reading=renoised", "gradient_step=random"]
    words += ["critic.windows=shared", "critic.learns_first=false", "critic.updates=1", "critic.warmup_updates=0"]
    for optimizer in ("optimizer", "critic.optimizer"):
        words += [f"{optimizer}.lr=1e-3", f"{optimizer}.warmup=0", f"{optimizer}.decay=0", f"{optimizer}.ema=0"]
    task = SelfForcingTask(load_config(sfpp.SfppStageConfig, CONFIG, [*words, *files]), stage="sfpp")
    for network in (*(trained.network for trained in task.networks.values()), task._teacher, task._vae):
        network.double()
    return task


def draws_of(task: SelfForcingTask) -> tuple[nano_sfpp.Draws, Tensor]:
    """What the real stage draws for its first step, and the prompt embeds of its videos."""
    config, (sampler,) = task._config, task._samplers
    rollout, samples = config.student.rollout(), range(BATCH)
    shape = (MODEL.in_channels, JUDGED, SIZE // 8, SIZE // 8)
    window = draw_window(config.window, 0, "student", seed=config.seed, rollout_frames=24, chunk=CHUNK)
    inputs = sampler._source._stage.videos(0, "student")
    draws = nano_sfpp.Draws(
        noise=inputs.noise,
        start=window.start,
        step=len(rollout.timesteps) - 1 - sampler._dropped_steps(0, "student"),
        renoise=normal(shape, config.seed, "renoise", 0, "student", samples=samples),
        score_sigma=score_sigmas(config.dmd, config.seed, "student", 0, samples=samples),
        score_noise=normal(shape, config.seed, "student", 0, samples=samples),
        critic_sigma=score_sigmas(config.dmd, config.seed, "critic", 0, samples=samples),
        critic_noise=normal(shape, config.seed, "critic", 0, samples=samples),
    )
    return draws, inputs.text.double()


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in network.named_parameters()}


@pytest.mark.parametrize(
    ("seed", "begins"), ((BEGINNING, 0), (LATER, 6), (LATE, 15)), ids=("beginning", "later", "late")
)
@pytest.mark.parametrize("sink", (0, 3))
def test_an_update_is_that_of_the_real_stage(files: list[str], seed: int, begins: int, sink: int) -> None:
    task = task_of(files, seed=seed, sink=sink)
    config = task._config
    with in_double():
        draws, text = draws_of(task)
        assert draws.start == begins, "the seed stands for another window"
        student, critic = (deepcopy(trained.network) for trained in task.networks.values())
        before = weights(student), weights(critic)
        method = nano_sfpp.Method(
            chunk=CHUNK,
            attention_window=9,
            sink=sink,
            steps=(1000.0, 750.0, 500.0),
            shift=config.student.shift,
            judged=JUDGED,
            rollout=24,
            masked=config.window.masked_frames,
            warmup=WARMUP_FRAMES,
            guidance=config.dmd.extra_guidance,
        )
        told = {"lr": 1e-3, "betas": config.optimizer.betas, "weight_decay": 0.0}
        losses = nano_sfpp.update(
            student,
            task._teacher,
            critic,
            task._vae,
            method,
            draws,
            text,
            task._conditioning.negative(BATCH).double(),
            tuple(torch.optim.AdamW(network.parameters(), **told) for network in (student, critic)),
            clip_norm=config.optimizer.clip,
        )
        metrics = task.train_step(None, 0)
    assert losses == pytest.approx((metrics["dmd_loss"], metrics["critic_loss"]), rel=1e-9)
    for name, mine, began in (("student", student, before[0]), ("critic", critic, before[1])):
        for weight, theirs in weights(task.networks[name].network).items():
            # A weight moves by 1e-3; float64 leaves 1e-16 of its size.
            torch.testing.assert_close(weights(mine)[weight], theirs, rtol=0, atol=1e-9, msg=f"{name}: {weight}")
            assert not torch.equal(theirs, began[weight]), f"{weight} of the {name} has not learnt"
