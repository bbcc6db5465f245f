"""The shared loop: a run in pieces is the run in one piece, and a run that cannot go on says why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.board import Board
from training.config import ConfigError, OptimizerConfig, RunConfig, TrainConfig
from training.divergence import TrainingDiverged
from training.loop import train
from training.run_folder import RunFolder
from training.seeding import generator_for
from training.supervised import Loss, Supervised


@dataclass(frozen=True, kw_only=True, slots=True)
class LineConfig(TrainConfig):
    """Fit a line; `poison` is a step whose loss is not a number."""

    poison: int = -1


class LineTask:
    """A small regression with noise in batch and loss, through the real optimisers."""

    def __init__(self, config: LineConfig) -> None:
        torch.manual_seed(config.seed)
        self._config = config
        self.model = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 1))
        self.exported: list[Tensor] = []

    def batch(self, step: int) -> Tensor:
        return torch.randn(4, 3, generator=generator_for(self._config.seed, "batch", step))

    def loss(self, batch: Tensor, step: int) -> Loss:
        noise = torch.randn(4, 1, generator=generator_for(self._config.seed, "noise", step))
        total = (self.model(batch) - batch.sum(1, keepdim=True) - 0.1 * noise).square().mean()
        total = total * float("nan") if step == self._config.poison else total
        return Loss(total=total, parts={"error": total.detach()})

    def watch(self, board: Board, step: int) -> None:
        board.scalars({"seen": 1.0}, step)

    def export(self, folder: Path) -> None:
        self.exported = [parameter.detach().clone() for parameter in self.model.parameters()]


def make_config(out: Path, *, steps: int = 4, **changes: object) -> LineConfig:
    run = RunConfig(out=str(out), workers=0, log_every=1, watch_every=2)
    optimizer = OptimizerConfig(lr=0.05, warmup=1, decay=2, ema=0.9, muon=True)
    return LineConfig(run=run, seed=3, precision="float32", steps=steps, optimizer=optimizer, **changes)


def fit(task: LineTask, config: LineConfig, *, stage: str = "line") -> bool:
    return train(Supervised(task, config), config, stage=stage)


def paused(config: LineConfig) -> LineConfig:
    """The same run, in pieces of one step."""
    return replace(config, run=replace(config.run, max_minutes=1e-9))


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(mine, theirs) for mine, theirs in zip(left, right, strict=True))


def test_a_run_in_pieces_equals_the_run_in_one_piece_bit_for_bit(tmp_path: Path) -> None:
    whole = LineTask(make_config(tmp_path / "whole"))
    assert fit(whole, make_config(tmp_path / "whole"))

    config = paused(make_config(tmp_path / "pieces"))
    finished = []
    for _ in range(4):
        pieces = LineTask(config)
        finished.append(fit(pieces, config))
    assert finished == [False, False, False, True]
    assert same(list(whole.model.parameters()), list(pieces.model.parameters()))
    assert same(whole.exported, pieces.exported)
    assert not same(whole.exported, list(whole.model.parameters())), "what is exported is the moving average"


def test_batches_from_a_worker_process_are_the_same(tmp_path: Path) -> None:
    alone, helped = (make_config(tmp_path / name) for name in ("alone", "helped"))
    helped = replace(helped, run=replace(helped.run, workers=1))
    tasks = [LineTask(alone), LineTask(helped)]
    for task, config in zip(tasks, (alone, helped), strict=True):
        fit(task, config)
    assert same(tasks[0].exported, tasks[1].exported)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    config = make_config(tmp_path, poison=1)
    fit(LineTask(config), paused(config))
    with pytest.raises(TrainingDiverged, match=r"nan at step 1; lower optimizer.lr"):
        fit(LineTask(config), config)
    assert RunFolder(config, stage="line").step == 1


def test_a_folder_of_another_configuration_is_refused_by_key(tmp_path: Path) -> None:
    fit(LineTask(make_config(tmp_path)), make_config(tmp_path))
    other = replace(make_config(tmp_path), seed=4, optimizer=replace(make_config(tmp_path).optimizer, lr=0.1))
    with pytest.raises(ConfigError, match=r"these keys differ: optimizer.lr, seed"):
        fit(LineTask(other), other)
    with pytest.raises(ConfigError, match=r"these keys differ: stage"):
        fit(LineTask(make_config(tmp_path)), make_config(tmp_path), stage="curve")


def test_how_a_run_is_carried_out_may_change(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    fit(LineTask(config), paused(config))
    assert fit(LineTask(config), replace(config, run=replace(config.run, log_every=2)))


def test_the_length_may_change_until_the_learning_rate_falls(tmp_path: Path) -> None:
    config = make_config(tmp_path / "longer")
    fit(LineTask(config), paused(config))
    longer = replace(config, steps=6)
    task = LineTask(longer)
    assert fit(task, longer)
    straight = LineTask(longer)
    fit(straight, replace(longer, run=replace(longer.run, out=str(tmp_path / "straight"))))
    assert same(task.exported, straight.exported)

    with pytest.raises(ConfigError, match="these keys differ: steps"):
        fit(LineTask(config), config)
