"""The shared loop: a run in pieces is the run in one piece, and a run that cannot go on says why."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.helpers.line_task import ExplodingLine, LineBatch, LineConfig, LineTask, fit, make_config, paused
from tests.helpers.metrics import logged, logged_steps
from training.config import ConfigError
from training.engine.checks import FIRST_LOOK, RECENT, ExplosionGuard, TrainingDiverged
from training.engine.metrics import MetricsLogger
from training.engine.run_folder import RunFolder
from training.engine.supervised import Loss


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(mine, theirs) for mine, theirs in zip(left, right, strict=True))


def quiet(config: LineConfig) -> LineConfig:
    """The same run, neither logged nor watched before it ends."""
    return replace(config, run=replace(config.run, log_every=1000, watch_every=1000))


def guard_of(factor: float | None) -> ExplosionGuard:
    return ExplosionGuard(factor, network="critic", key="critic.optimizer")


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


@pytest.fixture(params=["fork", "spawn"])
def usual_start(request: pytest.FixtureRequest) -> Iterator[None]:
    """Python starts processes so where nothing else is said."""
    usual = multiprocessing.get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    yield
    multiprocessing.set_start_method(usual, force=True)


@pytest.mark.usefixtures("usual_start")
@pytest.mark.skipif(sys.platform != "linux", reason="there are no workers elsewhere")
def test_batches_from_a_worker_process_are_the_same_and_tasks_need_not_be_sent_there(tmp_path: Path) -> None:
    alone, helped = (make_config(tmp_path / name) for name in ("alone", "helped"))
    helped = replace(helped, run=replace(helped.run, workers=1))
    tasks = [LineTask(alone), LineTask(helped)]
    tasks[1].cannot_be_sent = lambda: None
    for task, config in zip(tasks, (alone, helped), strict=True):
        fit(task, config)
    assert same(tasks[0].exported, tasks[1].exported)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    config = make_config(tmp_path, poison=1)
    fit(LineTask(config), paused(config))
    told = r"^step 1: .* is nan; lower optimizer.lr \(it is 0.05\) in a new run, with another run.out\.$"
    with pytest.raises(TrainingDiverged, match=told):
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


@pytest.mark.parametrize("fails_at", [2, 4])
def test_looking_that_fails_costs_nothing_of_what_has_been_learnt(tmp_path: Path, fails_at: int) -> None:
    class Dazzled(LineTask):
        def watch(self, log: MetricsLogger, step: int) -> None:
            if step == fails_at:
                raise torch.OutOfMemoryError("this video is too large")

    whole = LineTask(make_config(tmp_path / "whole"))
    fit(whole, make_config(tmp_path / "whole"))

    config = make_config(tmp_path / "dazzled")
    with pytest.raises(torch.OutOfMemoryError):
        fit(Dazzled(config), config)
    assert RunFolder(config, stage="line").step == fails_at
    task = Dazzled(config)
    assert fit(task, config), "the same command goes on behind what failed"
    assert same(whole.exported, task.exported)


def test_what_is_learnt_by_the_way_is_exported_as_a_run_that_ends_there_would(tmp_path: Path) -> None:
    config = make_config(tmp_path / "whole", steps=6)
    task = LineTask(config)
    fit(task, replace(config, run=replace(config.run, export_every=2)))
    assert list(task.exports) == ["000002", "000004", "000006", "whole"] and task.steps_told == [2, 4, 6, 6]
    assert same(task.exports["000006"], task.exports["whole"])

    early = replace(config, run=replace(config.run, out=str(tmp_path / "early"), max_minutes=1e-9, export_every=1))
    for _ in range(2):
        stopped = LineTask(config)
        fit(stopped, early)
    assert same(stopped.exports["000002"], task.exports["000002"])


def test_an_export_that_a_kill_came_before_is_made_when_the_run_goes_on(tmp_path: Path) -> None:
    class Killed(LineTask):
        def export(self, folder: Path, *, steps: int) -> None:
            raise KeyboardInterrupt

    config = make_config(tmp_path / "killed")
    config = replace(config, run=replace(config.run, export_every=2))
    with pytest.raises(KeyboardInterrupt):
        fit(Killed(config), config)
    assert RunFolder(config, stage="line").step == 2
    task, whole = LineTask(config), LineTask(make_config(tmp_path / "whole"))
    assert fit(task, config)
    assert list(task.exports) == ["000002", "000004", "killed"]
    fit(whole, replace(config, run=replace(config.run, out=str(tmp_path / "whole"))))
    assert same(task.exports["000002"], whole.exports["000002"])


def test_looking_that_fails_costs_no_export(tmp_path: Path) -> None:
    class Dazzled(LineTask):
        def watch(self, log: MetricsLogger, step: int) -> None:
            raise torch.OutOfMemoryError("this video is too large")

    config = make_config(tmp_path)
    task = Dazzled(config)
    with pytest.raises(torch.OutOfMemoryError):
        fit(task, replace(config, run=replace(config.run, export_every=2)))
    assert list(task.exports) == ["000002"]


def test_the_log_of_a_run_in_pieces_has_every_step_once(tmp_path: Path) -> None:
    """Also those that a checkpoint was written at; what was logged after the last one is logged again."""

    class Dazzled(LineTask):
        def loss(self, batch: LineBatch, step: int) -> Loss:
            if step == 3:
                raise torch.OutOfMemoryError("this batch is too large")
            return super().loss(batch, step)

    config = make_config(tmp_path, steps=6)
    with pytest.raises(torch.OutOfMemoryError):
        fit(Dazzled(config), config)
    assert RunFolder(config, stage="line").step == 2
    for _ in range(2):
        assert fit(LineTask(config), config), "also when it is finished already"
    curves = logged_steps(tmp_path)
    assert curves["loss"] == [1, 2, 3, 4, 5, 6]
    assert curves["seen"] == [2, 4, 6], "what was looked at with a checkpoint is not looked at again"


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


def test_a_gradient_that_explodes_stops_training_and_an_outlier_does_not() -> None:
    guard = guard_of(10)
    for number in range(FIRST_LOOK):
        guard.check(1e6 if number % 4 == 0 else 1 + 0.1 * (number % 3))
    later = guard_of(10)
    later.restore(guard.state())
    told = r"critic's gradient, usually 1\.\S*, has been about 50 for 20 updates, more than critic\.optimizer\.expl"
    with pytest.raises(TrainingDiverged, match=told):
        for _ in range(RECENT):
            later.check(50)
    with pytest.raises(TrainingDiverged, match="the norm of the critic's gradient is inf"):
        guard.check(float("inf"))


def test_an_explosion_is_not_looked_for_when_it_is_not_wanted() -> None:
    guard = guard_of(None)
    for norm in (*[1.0] * FIRST_LOOK, *[1e9] * RECENT):
        guard.check(norm)


def test_a_run_that_explodes_keeps_a_checkpoint_from_before_and_goes_on_from_it(tmp_path: Path) -> None:
    """It is saved after every step, and watched after every second one, which also saves it."""
    whole = quiet(make_config(tmp_path / "whole", steps=70))
    undisturbed = LineTask(whole)
    fit(undisturbed, whole)

    config = quiet(make_config(tmp_path / "exploding", steps=70))
    config = replace(config, run=replace(config.run, save_minutes=1e-9, watch_every=2))
    with pytest.raises(TrainingDiverged, match=r"^step 6[0-3]: .* optimizer\.explosion=100 times as much; lower"):
        fit(ExplodingLine(config, start=51), config)
    assert RunFolder(config, stage="line").step == 51
    task = LineTask(config)
    assert fit(task, config)
    assert same(undisturbed.exported, task.exported)


def test_an_explosion_is_found_as_soon_as_there_are_updates_to_tell_it_by(tmp_path: Path) -> None:
    config = quiet(make_config(tmp_path, steps=70))
    with pytest.raises(TrainingDiverged, match=rf"^step {FIRST_LOOK - 1}: "):
        fit(ExplodingLine(config, start=RECENT), config)


def test_a_run_pauses_after_a_wild_batch_once_that_has_passed(tmp_path: Path) -> None:
    whole = quiet(make_config(tmp_path / "whole", steps=8))
    undisturbed = ExplodingLine(whole, start=3, stop=5)
    fit(undisturbed, whole)

    config, reached = paused(quiet(make_config(tmp_path / "pieces", steps=8))), []
    for _ in range(6):
        task = ExplodingLine(config, start=3, stop=5)
        fit(task, config)
        reached.append(RunFolder(config, stage="line").step)
    assert reached == [1, 2, 3, 6, 7, 8]
    assert same(undisturbed.exported, task.exported)


def test_a_run_whose_last_batch_is_wild_is_finished(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    assert fit(ExplodingLine(config, start=3), config)
    assert RunFolder(config, stage="line").step == 4


def test_weights_are_in_doubt_after_a_gradient_out_of_proportion_until_one_is_in_proportion() -> None:
    guard = guard_of(10)
    seen = []
    for norm in (1, 2, 50, 1, 5, 21, 1):
        guard.check(norm)
        seen.append(guard.in_doubt)
    assert seen == [False, False, True, False, False, True, False]
    idle = guard_of(None)
    for norm in (1, 1, 1e9):
        idle.check(norm)
    assert not idle.in_doubt


def test_steps_are_timed_and_memory_is_measured(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    fit(LineTask(config), config)
    curves = logged(tmp_path)
    for name in ("seconds_per_step", "peak_memory_gib"):
        assert len(curves[name]) == 4 and all(value > 0 for value in curves[name])
