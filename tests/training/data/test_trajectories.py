"""Trajectories of the teacher's ODE: where they are kept, that they are right, and that nothing can mix them up."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.flow import add_noise
from sfpp_core.tiny.family import load_family_text_encoder, load_teacher, weights_path
from training.__main__ import main
from training.config import ConfigError, load_config
from training.data.prompt_embeds import Conditioning, ConditioningConfig
from training.data.shards import Shard, ShardFolder, read_header
from training.data.trajectories import OdeTrajectories, trajectory_shards
from training.engine.distributed import DistContext
from training.engine.run_folder import INPUTS_NAME, RunFolder
from training.engine.seeding import normal
from training.models.export import write_weights
from training.models.kernels import attention_on
from training.models.open import fingerprint
from training.models.sampling import euler_states, guided, student_grid, student_sigmas, teacher_velocity
from training.stages import ode_pairs

STUDENT = RolloutConfig()
PROMPTS = ["A red ball bounces slowly up and down in the desert.", "A blue boat glides quickly left.", "Snow."]
CONFIGS = Path(__file__).parents[3] / "training" / "configs"


def test_the_grid_holds_the_students_noise_levels_bit_for_bit_and_falls_from_1_to_0() -> None:
    grid = student_grid(STUDENT, 48)
    assert len(grid) == 49 and grid[0] == 1 and grid[-1] == 0
    assert all(first > second for first, second in zip(grid, grid[1:], strict=False))
    assert student_sigmas(STUDENT) == tuple(timestep / 1000 for timestep in STUDENT.timesteps)
    assert [grid.index(sigma) for sigma in student_sigmas(STUDENT)] == [0, 12, 24, 36]
    assert grid[1] == pytest.approx(5 * (47 / 48) / (1 + 4 * 47 / 48))


def test_the_steps_of_a_first_chunk_are_on_the_grid_too() -> None:
    eighths = RolloutConfig(first_chunk_steps=tuple(1000 - 125.0 * step for step in range(8)))
    assert len(student_sigmas(eighths)) == 8 and set(student_sigmas(eighths)) <= set(student_grid(eighths, 48))


@pytest.mark.parametrize(
    ("rollout", "steps", "sentence"),
    [
        (STUDENT, 50, "steps is 50, .*write a multiple of 4, e.g. steps=52"),
        (RolloutConfig(steps=(1000.0, 300.0)), 48, "multiple of 10, e.g. steps=50"),
    ],
)
def test_a_grid_that_the_student_falls_between_is_refused(rollout: RolloutConfig, steps: int, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        student_grid(rollout, steps)


def test_guidance_has_the_usual_form_and_costs_nothing_where_it_is_none() -> None:
    flows = {"text": torch.full((2,), 3.0), "negative": torch.full((2,), 1.0)}
    asked = []

    def flow(told: str) -> Tensor:
        asked.append(told)
        return flows[told]

    assert torch.equal(guided(flow, "text", "negative", usual_guidance=6.0), torch.full((2,), 13.0))
    asked.clear()
    assert torch.equal(guided(flow, "text", "negative", usual_guidance=1), flows["text"])
    assert asked == ["text"]


def test_euler_follows_straight_paths_exactly_and_gaussian_ones_to_first_order() -> None:
    x0, noise = torch.randn(64, dtype=torch.float64), torch.randn(64, dtype=torch.float64)
    sigmas = student_grid(STUDENT, 8)
    for sigma, state in zip(sigmas, euler_states(lambda x, sigma: noise - x0, noise, sigmas), strict=True):
        torch.testing.assert_close(state, add_noise(x0, noise, sigma))

    # Data of deviation d: x_t has deviation sqrt((1 - sigma)^2 d^2 + sigma^2), and the ODE scales every point with it.
    d = 0.3

    def velocity(x: Tensor, sigma: float) -> Tensor:
        return x * (sigma - (1 - sigma) * d**2) / ((1 - sigma) ** 2 * d**2 + sigma**2)

    errors = []
    for steps in (48, 96):
        *_, end = euler_states(velocity, noise, student_grid(RolloutConfig(shift=1.0), steps))
        errors.append((end - d * noise).abs().max().item())
    assert errors[1] < 0.6 * errors[0] < 0.1


def write_config(folder: Path, **changes: object) -> str:
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    config = {
        "seed": 3,
        "teacher": weights_path("teacher"),
        "conditioning": f"{{prompts: {folder / 'prompts.txt'}}}",
        "student": "{steps: [1000, 500], shift: 5}",
        "trajectories": 6,
        "height": 32,
        "width": 32,
        "frames": 3,
        "steps": 4,
        "usual_guidance": 3.0,
        "shard": 2,
        "batch": 2,
        "precision": "float32",
        "run": f"{{out: {folder / 'out'}}}",
    }
    path = folder / "ode_pairs.yaml"
    path.write_text("\n".join(f"{key}: {value}" for key, value in {**config, **changes}.items()))
    return str(path)


def make(folder: Path, **changes: object) -> OdeTrajectories:
    assert main(["ode_pairs", "--config", write_config(folder, **changes)]) == 0
    return OdeTrajectories(str(folder / "out"))


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("six")
    make(folder)
    return folder


def test_states_are_those_of_an_independent_integration(six: Path) -> None:
    """In float64, with the formulas written out: noise 4 is the second prompt's second turn."""
    made = OdeTrajectories(str(six / "out"))
    network, encoder = load_teacher().double(), load_family_text_encoder()
    with torch.no_grad():
        text, empty = (encoder.encode([prompt]).double() for prompt in (PROMPTS[1], ""))
        x = normal((16, 3, 4, 4), 3, "trajectory", samples=[4]).double()
        states = [x]
        u = [1, 0.75, 0.5, 0.25, 0]
        sigma = [5 * each / (1 + 4 * each) for each in u]
        for index in range(4):
            timestep = torch.full((1, 3), 1000 * sigma[index], dtype=torch.float64)
            conditional, base = network(x, timestep, text), network(x, timestep, empty)
            x = x + (sigma[index + 1] - sigma[index]) * (base + 3 * (conditional - base))
            states.append(x)
    assert made.prompts[4] == PROMPTS[1]
    assert made.sigmas == (1.0, pytest.approx(5 / 6), 0.0)
    for state, expected in zip(made.states(4), (states[0], states[2], states[4]), strict=True):
        torch.testing.assert_close(state.double(), expected[0], atol=4e-3, rtol=1e-3)
    assert torch.equal(made.clip(4), made.states(4)[-1])


def test_in_half_precision_the_teachers_weights_are_too_and_its_name_is_that_of_its_file(tmp_path: Path) -> None:
    made = make(tmp_path, precision="bfloat16", trajectories=2)
    network = load_teacher().bfloat16()
    network.attention = attention_on(torch.device("cpu"))
    texts = Conditioning.open(ConditioningConfig(prompts=str(tmp_path / "prompts.txt")))
    grid = student_grid(RolloutConfig(steps=(1000.0, 500.0)), 4)
    velocity = teacher_velocity(network, texts.text([0, 1]), texts.negative(2), usual_guidance=3.0)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        *_, ends = euler_states(velocity, normal((16, 3, 4, 4), 3, "trajectory", samples=[0, 1]), grid)
    for number, end in enumerate(ends):
        assert torch.equal(made.clip(number), end.half().float())
    header = read_header(trajectory_shards(tmp_path / "out").path(0))
    assert header["teacher"]["fingerprint"] == fingerprint(load_teacher())


def test_a_trajectory_depends_on_neither_batch_nor_shard(six: Path, tmp_path: Path) -> None:
    whole, single = OdeTrajectories(str(six / "out")), make(tmp_path, batch=1, shard=6)
    assert whole.prompts == single.prompts == PROMPTS * 2
    for index in range(6):
        torch.testing.assert_close(whole.states(index), single.states(index), atol=4e-3, rtol=1e-3)
    assert not torch.equal(whole.states(0)[0], whole.states(3)[0]), "a prompt's second turn has other noise"


def test_the_header_says_what_made_it(six: Path) -> None:
    header = read_header(trajectory_shards(six / "out").path(1))
    assert header["teacher"] == {"file": "teacher.safetensors", "fingerprint": fingerprint(load_teacher())}
    assert (header["usual_guidance"], header["steps"], header["shift"], header["seed"]) == (3.0, 4, 5.0, 3)
    assert header["prompts"] == [PROMPTS[2], PROMPTS[0]]


def test_ranks_share_the_shards_among_themselves(tmp_path: Path) -> None:
    """What a shard holds does not depend on who makes it: its trajectories are made in the same batches."""
    shards, made = ShardFolder(tmp_path, "numbers"), []

    def shard(index: int) -> Shard:
        made.append(index)
        return Shard(tensors={"number": torch.tensor(index)}, header={"index": index})

    assert shards.make(5, shard, max_minutes=None, world=DistContext(rank=1, size=2)) and made == [1, 3]
    with pytest.raises(
        ConfigError, match="holds 2 of 5 shards of numbers, numbers-00000.safetensors and 2 more are mis"
    ):
        shards.whole(stage="counting")
    assert shards.make(5, shard, max_minutes=None, world=DistContext(rank=0, size=2)) and made == [1, 3, 0, 2, 4]
    assert [read_header(path)["index"] for path in shards.whole(stage="counting")] == [0, 1, 2, 3, 4]
    assert shards.make(5, shard, max_minutes=None) and len(made) == 5


@pytest.mark.parametrize("missing", [(1,), (2,), (0,), (1, 2)])
def test_half_made_trajectories_are_refused_and_said_how_to_finish(
    six: Path, tmp_path: Path, missing: tuple[int, ...]
) -> None:
    shutil.copytree(six / "out", tmp_path / "out")
    for number in missing:
        trajectory_shards(tmp_path / "out").path(number).unlink()
    said = rf"holds {3 - len(missing)} of 3 shards of trajectories, .*missing; finish making them .*training ode_pairs"
    with pytest.raises(ConfigError, match=said):
        OdeTrajectories(str(tmp_path / "out"))


def test_shards_of_earlier_versions_do_not_say_how_many_they_are_but_show_gaps(tmp_path: Path) -> None:
    shards = ShardFolder(tmp_path, "numbers")
    for number in (0, 1, 3):
        save_file({"number": torch.tensor(number)}, shards.path(number), metadata={"index": str(number)})
    with pytest.raises(ConfigError, match="holds 3 of 4 shards of numbers, numbers-00002.safetensors is missing"):
        shards.whole(stage="counting")
    shards.path(3).unlink()
    assert shards.whole(stage="counting") == [shards.path(0), shards.path(1)]


def test_shards_of_two_runs_are_told_apart(tmp_path: Path) -> None:
    shards = ShardFolder(tmp_path, "numbers")
    for number in (0, 1):
        shards.write(number, Shard(tensors={"number": torch.tensor(number)}, header={}), total=2 + number)
    with pytest.raises(ConfigError, match="numbers of several runs, of 2 and 3 shards; make them again"):
        shards.whole(stage="counting")


@pytest.mark.endurance
def test_a_killed_run_goes_on_with_whole_shards_only(six: Path, tmp_path: Path) -> None:
    path = write_config(tmp_path)
    shards = trajectory_shards(tmp_path / "out")
    run = subprocess.Popen(
        [sys.executable, "-m", "training", "ode_pairs", "--config", path],
        cwd=CONFIGS.parents[1],
        stderr=subprocess.DEVNULL,
    )
    while not shards.path(0).is_file() and run.poll() is None:
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGKILL)
    run.wait(timeout=60)
    kept = shards.path(0).stat().st_mtime_ns
    resumed, uninterrupted = make(tmp_path), OdeTrajectories(str(six / "out"))
    assert shards.path(0).stat().st_mtime_ns == kept
    assert all(torch.equal(resumed.states(index), uninterrupted.states(index)) for index in range(6))


def test_a_run_pauses_after_max_minutes_and_another_teacher_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    teacher = tmp_path / "teacher.safetensors"
    teacher.write_bytes(weights_path("teacher").read_bytes())
    path = write_config(tmp_path, teacher=teacher)
    assert main(["ode_pairs", "--config", path]) == 0
    trajectory_shards(tmp_path / "out").path(2).unlink()
    assert not ode_pairs.run(load_config(ode_pairs.OdePairsStageConfig, path, ["run.max_minutes=1e-9"]))
    other = load_teacher()
    torch.nn.init.zeros_(other.head.head.bias)
    write_weights(teacher, other.state_dict(), {"kind": "teacher", "model": asdict(other.config)})
    assert main(["ode_pairs", "--config", path]) == 2
    assert f"{teacher}, which teacher names, is not the file" in caplog.text
    (tmp_path / "out" / INPUTS_NAME).unlink()
    assert main(["ode_pairs", "--config", path]) == 2
    assert "was made by another teacher" in caplog.text


def test_a_student_of_other_steps_or_another_shift_is_refused(six: Path, tmp_path: Path) -> None:
    made = OdeTrajectories(str(six / "out"))
    assert made.numbers_of([5 / 6, 1.0]) == [1, 0]
    with pytest.raises(ConfigError, match="holds states at the noise levels 1, 0.8333, 0, but .* at 1, 0.9375;"):
        made.numbers_of([1.0, 0.9375])
    with pytest.raises(ConfigError, match="holds no trajectories; make them with"):
        OdeTrajectories(str(tmp_path))


def test_other_euler_steps_are_another_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_config(tmp_path)
    RunFolder(load_config(ode_pairs.OdePairsStageConfig, path), stage="ode_pairs")
    assert main(["ode_pairs", "--config", path, "steps=8"]) == 2
    assert "holds a run of another configuration; these keys differ: steps" in caplog.text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["steps=5"], "multiple of 2, e.g. steps=6"),
        (["trajectories=5"], "multiple of shard, 2"),
        (["usual_guidance=null"], "usual_guidance"),
        (["guidance=3"], "there is no key 'guidance'"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(tmp_path: Path, words: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(ode_pairs.OdePairsStageConfig, write_config(tmp_path), words)


def test_the_shipped_configurations_load() -> None:
    for name in ("tiny", "wan"):
        assert load_config(ode_pairs.OdePairsStageConfig, CONFIGS / name / "ode_pairs.yaml").student.shift == 5
