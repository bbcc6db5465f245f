"""The self_forcing and sfpp stages at their smallest, through the command line's own entry."""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from statistics import fmean

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.rollout import CallProgress, Rollout
from sfpp_core.rollout.state import RolloutState
from sfpp_core.tiny.family import load_student
from sfpp_core.wan.attention import sdpa_attention
from sfpp_core.wan.config import WanConfig
from tests.helpers.metrics import logged
from tests.helpers.models import random_transformer
from tests.helpers.self_forcing_videos import CPU, chain, gradients_of_a_step
from tests.helpers.vae_models import random_vae
from training.__main__ import main
from training.config import ConfigError, load_config
from training.data.prompt_embeds import Conditioning
from training.engine.loop import peak_memory
from training.engine.run_folder import RunFolder, read_run
from training.models.export import StudentConfig, write_student, write_weights
from training.models.open import open_transformer
from training.self_forcing import task as task_module
from training.self_forcing.config import SfppStageConfig
from training.self_forcing.rollouts import windows_in_video
from training.self_forcing.samples import Sample
from training.self_forcing.task import SelfForcingTask
from training.self_forcing.windows import Window, as_clip
from training.stages import self_forcing, sfpp

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "training" / "configs"
MODEL = WanConfig(dim=128, ffn_dim=64, num_heads=1, num_layers=1, text_dim=4096, freq_dim=32)
QUICK = {"optimizer.warmup": 0, "critic.optimizer.warmup": 0, "optimizer.lr": 1e-3, "critic.optimizer.lr": 1e-3}
SIZES = {
    **{"batch": 2, "width": 32, "height": 32, "steps": 2, "watch_frames": 6, "precision": "float32"},
    **{"optimizer.muon_precision": "float32", "critic.optimizer.muon_precision": "float32"},
    **{"window.frames": 6, "window.masked_frames": 2, "critic.updates": 2, "critic.warmup_updates": 1},
    **{"student.window": 6, "student.steps": "[1000,500]", "conditioning.text_encoder": "null"},
    **{"run.workers": 0, "run.log_every": 1, "run.watch_every": 100, "run.device": "cpu"},
}
# All ways of training are written out: no test is to change with the configuration that comes along.
WAY = {"reading": "chain", "gradient_step": "last", "critic.windows": "shared", "critic.learns_first": False}
SFPP = {
    **{**WAY, "seed": 17, "history": "streaming", "window.rollout_frames": 12, "window.ramp_updates": 1},
    "window.first_window_probability": 0.2,
}
SELF_FORCING = {**WAY, "history": "restart", "window.rollout_frames": 6}


def save_network(path: Path, model: WanConfig, *, kind: str) -> None:
    write_weights(path, random_transformer(model, seed=2).state_dict(), {"kind": kind, "model": asdict(model)})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Configuration keys and the files that they name, all of random weights."""
    folder = tmp_path_factory.mktemp("files")
    paths = {key: folder / f"{key}.safetensors" for key in ("init", "teacher", "vae")}
    student = StudentConfig(window=6, steps=[1000.0, 500.0])
    write_student(paths["init"], random_transformer(MODEL, seed=1), student, {}, dtype=torch.float32)
    save_network(paths["teacher"], MODEL, kind="teacher")
    vae = random_vae(dim=4)
    write_weights(paths["vae"], vae.state_dict(), {"kind": "vae"})
    prompts = folder / "prompts.txt"
    prompts.write_text("A red ball bounces.\nA blue boat glides to the left.\nSnow.\n")
    return {"conditioning.prompts": str(prompts), **{key: str(path) for key, path in paths.items()}}


def words(files: dict[str, str], *layers: dict[str, object], **more: object) -> list[str]:
    settings: dict[str, object] = {**SIZES, **QUICK, **files}
    for layer in (*layers, more):
        settings |= layer
    return [f"{key}={value}" for key, value in settings.items()]


def run(stage: str, out: Path, arguments: list[str]) -> None:
    config = CONFIGS / "tiny" / f"{stage}.yaml"
    assert main([stage, "--config", str(config), *arguments, f"run.out={out}"]) == 0


def config_of(files: dict[str, str], *layers: dict[str, object], stage: str = "sfpp") -> SfppStageConfig:
    kind = {"sfpp": sfpp.SfppStageConfig, "self_forcing": self_forcing.SelfForcingStageConfig}[stage]
    return load_config(kind, CONFIGS / "tiny" / f"{stage}.yaml", words(files, *layers, {"run.out": "any"}))


def task_of(files: dict[str, str], *layers: dict[str, object], stage: str = "sfpp") -> SelfForcingTask:
    return SelfForcingTask(config_of(files, *layers, stage=stage), stage=stage)


WAYS = {
    ", ".join(way): dict(zip(("history", "reading", "critic.windows"), way, strict=True))
    # Every two choices meet in one of them.
    for way in (
        ("restart", "chain", "shared"),
        ("restart", "renoised", "fresh"),
        ("streaming", "chain", "fresh"),
        ("streaming", "renoised", "shared"),
    )
}
FOUR = {"batch": 4}
# Two windows a video, coprime to the three that a step takes if the critic has its own.
LONGER = {"window.rollout_frames": 9, "window.masked_frames": 1}


@pytest.fixture(params=WAYS.values(), ids=WAYS.keys())
def way(request: pytest.FixtureRequest) -> dict[str, object]:
    return request.param


# A stopped run goes on


def test_a_run_in_pieces_equals_one_in_a_go(files: dict[str, str], way: dict[str, object], tmp_path: Path) -> None:
    settings = words(files, SFPP, LONGER, way)
    run("sfpp", tmp_path / "whole", settings)
    for _ in range(2):
        run("sfpp", tmp_path / "pieces", [*settings, "run.max_minutes=1e-9"])
    weights = [load_file(tmp_path / name / "student.safetensors") for name in ("whole", "pieces")]
    began = load_file(files["init"])
    assert weights[0].keys() == weights[1].keys() == began.keys()
    for name, weight in weights[0].items():
        assert torch.equal(weights[1][name], weight), name
        assert not torch.equal(weight, began[name].half()), f"{name} has learnt something"


# A run that cannot go on


def test_a_critic_that_diverges_is_named_and_a_new_run_begins_as_advised(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out, settings = tmp_path / "a run", words(files, SELF_FORCING)
    updates, loss = count(), task_module.critic_loss
    with monkeypatch.context() as patch:
        # The second update of the second step: one came before the first step, and each has two.
        broken = 4
        patch.setattr(task_module, "critic_loss", lambda *told: loss(*told) / (0 if next(updates) == broken else 1))
        command = ["self_forcing", "--config", str(CONFIGS / "tiny" / "self_forcing.yaml"), *settings]
        assert main([*command, f"run.out={out}", "run.save_minutes=1e-9", "precision=bfloat16"]) == 1
    sentence = caplog.records[-1].getMessage()
    assert sentence.startswith(
        "step 1: the norm of the critic's gradient is nan; lower critic.optimizer.lr (it is 0.001), "
        "or write precision=float32 (it is bfloat16), in a new run, with another run.out. To begin it with "
    )
    advice = re.search(r"until step 1, give `python -m training (.+)`, then name (\S.+) in init\.", sentence)
    assert main(shlex.split(advice[1])) == 0
    kept = read_run(str(out)).weights("student", "raw")
    written = load_file(advice[2])
    assert written.keys() == kept.keys() and all(torch.equal(written[name], weight) for name, weight in kept.items())
    again = {"init": advice[2], "critic.optimizer.lr": 1e-4}
    run("self_forcing", tmp_path / "new", words(files, SELF_FORCING, again))


def test_a_run_that_goes_on_may_show_videos_of_another_length(files: dict[str, str], tmp_path: Path) -> None:
    settings = words(files, SELF_FORCING)
    run("self_forcing", tmp_path / "whole", settings)
    run("self_forcing", tmp_path / "shorter", [*settings, "watch_frames=9", "run.max_minutes=1e-9"])
    run("self_forcing", tmp_path / "shorter", [*settings, "watch_frames=3"])
    weights = [load_file(tmp_path / name / "student.safetensors") for name in ("whole", "shorter")]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def test_what_the_judges_see_does_not_depend_on_how_the_student_computes(files: dict[str, str]) -> None:
    video = torch.randn(1, 16, 9, 4, 4, generator=torch.Generator().manual_seed(0))
    window = Window(start=3, frames=6)
    seen = []
    for precision in ("float32", "bfloat16"):
        task = task_of(files, SFPP, {"precision": precision})
        with task._config.autocast():
            seen.append(as_clip(video, task._vae, window, masked_frames=2).latents)
    assert torch.equal(*seen)


def test_the_exported_student_is_one_that_nodes_load(files: dict[str, str], tmp_path: Path) -> None:
    run("self_forcing", tmp_path, words(files, SELF_FORCING, {"steps": 1}))
    network, rollout = load_student(tmp_path / "student.safetensors")
    assert network.config == MODEL
    assert rollout == RolloutConfig(window=6, steps=(1000.0, 500.0))
    assert list((tmp_path / "board").glob("films_*.mp4"))


# What training rolls is what inference makes


@pytest.mark.parametrize("gradient_step", ["last", "all"])
@pytest.mark.parametrize("history", ["restart", "streaming"])
def test_the_window_that_a_step_judges_and_learns_from_is_that_of_inference_bit_for_bit(
    files: dict[str, str], history: str, gradient_step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32, with inference's attention, and as inference does one video at a time; the learning rate is too small
    to move a weight, so that videos that go on are those of one network.
    """
    ways = {"history": history, "gradient_step": gradient_step, "accumulate": 2, "optimizer.lr": 1e-30}
    task = task_of(files, SFPP, LONGER, ways, {"window.first_window_probability": 0})
    for network in (*(trained.network for trained in task.networks.values()), task._teacher):
        network.attention = sdpa_attention
    config, student = task._config, open_transformer(files["init"])
    texts = Conditioning.open(config.conditioning)
    samples = taught_samples(task, monkeypatch)
    for step in range(6):
        task.train_step(None, step)
    seen = set()
    for sample in samples:
        window, recording = sample.rolled.window, sample.rolled.recording
        (seed,) = recording.videos.noise.seeds
        (prompt,) = (text for text in map(texts.text, [[0], [1], [2]]) if torch.equal(text, recording.videos.text))
        state = RolloutState(config=config.student.rollout(), seed=seed, model_id="any", shape=(1, 16, 4, 4))
        calls: list[CallProgress] = []
        rollout = Rollout(student, state, prompt, on_call=calls.append)
        with torch.inference_mode():
            list(rollout.run(window.end // 3))
        assert torch.equal(recording.after.latents, rollout.state.latents)
        noised = {(call.chunk, call.timestep): call.noised for call in calls if call.noised is not None}
        for chunk, last in enumerate(recording.steps, start=len(recording.before.chunks)):
            assert all(torch.equal(each.noised, noised[chunk, each.timestep]) for each in chain(last))
        made = rollout.state.latents[:, :, window.start :]
        # First frames of a window from mid-video are re-encoded; see `as_clip`.
        anew = config.window.masked_frames if window.start else 0
        assert torch.equal(sample.judged.clip.latents[:, :, anew:], made[:, :, anew:])
        assert sample.judged.clip.mask.any()
        seen.add((window.start, seed))
    assert len(seen) == 12 and max(seen)[0] > 0, "other videos or moments each time, also in mid-video"


# What is logged


def test_the_board_tells_what_the_documentation_says(files: dict[str, str], tmp_path: Path) -> None:
    # Longer than 5 s, or else the last 5 s are also the first.
    run("sfpp", tmp_path, words(files, SFPP, {"watch_frames": 24, "run.watch_every": 1}))
    curves = logged(tmp_path)
    documentation = (ROOT / "docs" / "training.md").read_text()
    assert [name for name in curves if f"`{name}`" not in documentation] == []
    positive = ("dmd_loss", "dmd_gradient", "gradient_norm", "learning_rate", "seconds_per_step", *peak_memory(CPU))
    positive += ("critic_loss", "critic_gradient_norm", "critic_learning_rate", "exposure_drift_size")
    assert curves.keys() == {*positive, "dmd_non_finite", "window_start", "exposure_drift"}
    for name, values in curves.items():
        assert len(values) == 2, f"{name} is logged once a step"
        assert name not in positive or min(values) > 0, name


@pytest.mark.parametrize("learns_first", [False, True])
def test_the_critics_gradient_norm_is_the_mean_over_a_steps_updates_before_clipping(
    files: dict[str, str], learns_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    critic = {"critic.windows": "shared", "critic.learns_first": learns_first, "critic.optimizer.clip": 1e-3}
    task = task_of(files, SFPP, critic, {"critic.updates": 3, "critic.warmup_updates": 1})
    trained = task.networks["critic"]
    update, norms = trained.update, []

    def note(step: int) -> dict[str, float]:
        squares = [weight.grad.double().square().sum() for weight in trained.network.parameters()]
        norms.append(sum(squares).sqrt().item())
        return update(step)

    monkeypatch.setattr(trained, "update", note)
    metrics = task.train_step(None, 0)
    _, *of_the_step = norms
    assert len(set(of_the_step)) == 3
    assert metrics["critic_gradient_norm"] == pytest.approx(fmean(of_the_step), rel=1e-5)


# Who learns from what


def all_weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in network.named_parameters()}


def noted_updates(task: SelfForcingTask, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """A list that grows with every update: whose, and its number."""
    updates: list[tuple[str, int]] = []
    for name, trained in task.networks.items():
        update = trained.update

        def note(step: int, name: str = name, update: object = update) -> dict[str, float]:
            updates.append((name, step))
            return update(step)

        monkeypatch.setattr(trained, "update", note)
    return updates


def test_the_student_acts_once_a_step_and_the_critic_as_often_as_told(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(files, SFPP, {"critic.updates": 5, "critic.warmup_updates": 2})
    updates = noted_updates(task, monkeypatch)
    for step in range(2):
        task.train_step(None, step)
    warm_up = [("critic", number) for number in range(2)]
    first = [("student", 0), *(("critic", number) for number in range(2, 7))]
    second = [("student", 1), *(("critic", number) for number in range(7, 12))]
    assert updates == warm_up + first + second
    assert config_of(files, SFPP).critic.updates_in(100) == 201, "which is how long its learning rate takes"


def test_each_loss_has_a_gradient_for_its_own_network_alone(
    files: dict[str, str], way: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(files, SFPP, LONGER, way)
    teacher = task._teacher
    before = all_weights(teacher)
    learnt: list[str] = []
    for name, trained in task.networks.items():
        (other,) = (other for key, other in task.networks.items() if key != name)
        update = trained.update

        def check(step: int, name: str = name, trained=trained, other=other, update=update) -> dict[str, float]:
            assert all(weight.grad is not None for weight in trained.network.parameters()), name
            assert all(weight.grad is None for weight in other.network.parameters()), name
            learnt.append(name)
            return update(step)

        monkeypatch.setattr(trained, "update", check)
    for step in range(2):
        task.train_step(None, step)
    assert set(learnt) == {"student", "critic"}
    assert all(weight.grad is None and not weight.requires_grad for weight in teacher.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in teacher.named_parameters())


@pytest.mark.parametrize("reading", ["chain", "renoised"])
def test_in_half_precision_every_weight_has_a_gradient(
    files: dict[str, str], reading: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older PyTorch keeps casts of weights; those of the rollout, without gradients, must not serve the step with."""
    from_scratch = {"history": "restart", "window.masked_frames": 3, "critic.updates": 1}
    task = task_of(files, SFPP, from_scratch, {"precision": "bfloat16", "reading": reading})
    student = task.networks["student"]

    def check(step: int) -> dict[str, float]:
        for name, weight in student.network.named_parameters():
            assert weight.grad is not None and weight.grad.any(), name
            weight.grad = None
        return {}

    monkeypatch.setattr(student, "update", check)
    starts = [task.train_step(None, step)["window_start"] for step in range(3, 6)]
    assert max(starts) > 0, "a window from mid-video, whose first chunk is passed over"


@pytest.mark.parametrize("reading", ["chain", "renoised"])
def test_a_critic_that_is_the_teacher_leaves_the_student_as_it_is(files: dict[str, str], reading: str) -> None:
    """Without guidance they agree about every clip, and there is nothing to learn."""
    alone = {"dmd.extra_guidance": 0, "critic.warmup_updates": 0, "optimizer.ema": 0}
    task = task_of(files, SFPP, alone, {"reading": reading})
    before = all_weights(task.networks["student"].network)
    metrics = task.train_step(None, 0)
    assert metrics["dmd_loss"] == metrics["dmd_gradient"] == metrics["gradient_norm"] == 0
    for name, weight in task.networks["student"].network.named_parameters():
        assert torch.equal(weight, before[name]), name


def test_a_critic_that_learns_first_has_learnt_the_very_windows_that_it_judges(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(files, SFPP, FOUR, {"critic.learns_first": True, "accumulate": 2, "critic.warmup_updates": 0})
    updates = noted_updates(task, monkeypatch)
    judged, learnt = [], []
    judge, update_critic = task._judge, task._update_critic
    monkeypatch.setattr(task, "_judge", lambda clips, step: judged.append(clips) or judge(clips, step))
    monkeypatch.setattr(
        task, "_update_critic", lambda clips, update: learnt.append(list(clips)) or update_critic(clips, update)
    )
    task.train_step(None, 0)
    assert [name for name, _ in updates] == ["critic", "critic", "student"]
    assert len(judged) == 2 and all(clips == judged for clips in learnt)


# Which denoising steps take the gradient


def taught_samples(task: SelfForcingTask, monkeypatch: pytest.MonkeyPatch) -> list[Sample]:
    """A list that grows with every part of a batch that the student learns from."""
    samples: list[Sample] = []
    teach = task._teach
    monkeypatch.setattr(task, "_teach", lambda sample, step: samples.append(sample) or teach(sample, step))
    return samples


def timesteps_with_gradients(network: nn.Module) -> list[float]:
    """A list that grows with the timestep of every call of a network that has gradients, of its last frame."""
    timesteps: list[float] = []

    def note(network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            timesteps.append(inputs[1][0, -1].item())

    network.register_forward_pre_hook(note)
    return timesteps


@pytest.mark.parametrize(
    ("history", "reading", "gradient_step"),
    [
        *((history, reading, "last") for history in ("restart", "streaming") for reading in ("chain", "renoised")),
        *(("restart", "chain", "random"), ("restart", "renoised", "random"), ("streaming", "renoised", "random")),
        *(("restart", "chain", "all"), ("streaming", "chain", "all")),
    ],
)
def test_the_gradient_goes_through_the_denoising_steps_that_are_named(
    files: dict[str, str], history: str, reading: str, gradient_step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And through no other, in every chunk of a window and in all parts of a batch; the rest of the video is finished,
    unless it ends with the step that takes it.
    """
    ways = {"history": history, "reading": reading, "gradient_step": gradient_step, "accumulate": 2}
    steps = {"student.steps": "[1000,750,500]", "student.first_chunk_steps": "[]"}
    critic = {"critic.windows": "shared", "critic.updates": 1, "critic.warmup_updates": 0}
    task = task_of(files, SFPP, LONGER, ways, steps, critic, {"window.first_window_probability": 0.3})
    samples = taught_samples(task, monkeypatch)
    calls = timesteps_with_gradients(task.networks["student"].network)
    timesteps = list(task._config.student.rollout().timesteps)
    found, starts = set(), set()
    for step in range(8):
        samples.clear()
        calls.clear()
        task.train_step(None, step)
        chains = [
            [each.timestep for each in chain(recorded)]
            for sample in samples
            for recorded in sample.rolled.recording.steps
        ]
        at = timesteps[-1]
        if gradient_step == "random":
            at = min(timesteps, key=lambda timestep: abs(timestep - calls[0]))
        if reading == "renoised":
            assert chains == [[timesteps[-1]]] * len(chains), "the video itself is finished"
            assert calls == pytest.approx([at] * len(samples))
        else:
            assert chains == [timesteps if gradient_step == "all" else [at]] * len(chains)
            assert calls == pytest.approx([timestep for each in chains for timestep in each])
        assert len(samples) == 2
        found.add(at)
        starts |= {sample.rolled.window.start for sample in samples}
    assert found == (set(timesteps) if gradient_step == "random" else {timesteps[-1]})
    assert min(starts) == 0 < max(starts), "beginnings, and windows from mid-video"


# Parts of a batch


def test_a_batch_in_parts_gives_the_gradient_of_the_whole(files: dict[str, str], way: dict[str, object]) -> None:
    (metrics, whole), (metrics_of_parts, parts) = (
        gradients_of_a_step(config_of(files, SFPP, LONGER, FOUR, way, {"accumulate": count})) for count in (1, 2)
    )
    assert metrics_of_parts == pytest.approx(metrics, rel=1e-5)
    assert parts.keys() == whole.keys()
    for name, gradient in whole.items():
        tolerance = 1e-5 * gradient.abs().max().item()
        torch.testing.assert_close(parts[name], gradient, atol=tolerance, rtol=1e-4, msg=name)


# How long it is


@pytest.mark.parametrize(
    ("decays", "last"),
    [
        ({"critic.optimizer.decay": 500}, 400),
        ({"critic.optimizer.decay": 501}, 399),
        ({"critic.optimizer.decay": 50, "optimizer.decay": 30}, 470),
        ({"critic.optimizer.decay": 50, "optimizer.decay": 5}, 490),
        ({}, 500),
    ],
)
def test_a_run_may_be_made_longer_until_one_of_its_rates_begins_to_fall(
    files: dict[str, str], tmp_path: Path, decays: dict[str, int], last: int
) -> None:
    """Of 500 steps with five updates of the critic each."""
    planned = config_of(files, SFPP, {"steps": 500, "critic.updates": 5}, decays)
    assert planned.steps_before_decay == last
    planned = replace(planned, run=replace(planned.run, out=str(tmp_path)))
    longer = replace(planned, steps=1000)
    RunFolder(planned, stage="sfpp").save(last, {})
    RunFolder(longer, stage="sfpp").save(last + 1, {})
    with pytest.raises(ConfigError, match="these keys differ: steps"):
        RunFolder(planned, stage="sfpp")


# What is refused


def refusal(
    files: dict[str, str], caplog: pytest.LogCaptureFixture, tmp_path: Path, stage: str, settings: dict[str, object]
) -> str:
    """What the command says, and that it says it before it has made a folder."""
    layer = SFPP if stage == "sfpp" else SELF_FORCING
    out = tmp_path / "out"
    config = CONFIGS / "tiny" / f"{stage}.yaml"
    assert main([stage, "--config", str(config), *words(files, layer, settings), f"run.out={out}"]) == 2
    assert not out.exists()
    return caplog.records[-1].getMessage()


REFUSED = [
    ({"window.rollout_frames": 3}, "window.rollout_frames is 3, shorter than a window of 6"),
    ({"window.frames": 5, "window.rollout_frames": 12}, "window.frames is 5; it must be a multiple of the chunk, 3"),
    ({"window.rollout_frames": 11}, "window.rollout_frames is 11; it must be a multiple of the chunk, 3. Try 12"),
    ({"window.frames": 2, "window.masked_frames": 1}, "window.frames is 2, less than a chunk, 3; write 21"),
    ({"student.window": 2}, "window is 2, but it must hold the sink"),
    ({"width": 40}, "width is 40; it must be a positive multiple of 16 pixels"),
    ({"window.frame": 6}, "there is no key 'window.frame' in this stage"),
    ({"history": "resume"}, "history is 'resume'; it must be one of restart, streaming"),
    ({"reading": "both"}, "reading is 'both'; it must be one of chain, renoised"),
    ({"gradient_step": "first"}, "gradient_step is 'first'; it must be one of last, random, all"),
    ({"critic.windows": "own"}, "critic.windows is 'own'; it must be one of shared, fresh"),
    ({"critic.updates": 0}, "critic.updates is 0; it must be at least 1"),
    ({"critic.learns_first": True, "critic.windows": "fresh"}, "nothing that it could learn before it judges it"),
    ({"critic.warmup_updates": -1}, "critic.warmup_updates is -1"),
    ({"critic.optimizer.warmup": 50}, "is 50, but the critic is updated 5 times"),
    ({"gradient_step": "all", "reading": "renoised"}, "the renoised reading takes one more step and no other"),
    ({"gradient_step": "random"}, "videos would go on from chunks that were not denoised to the end"),
    ({"window.masked_frames": 5}, "window.masked_frames is 5, which leaves nothing of a window of 6"),
    (
        {"window.frames": 21, "window.masked_frames": 6, "window.rollout_frames": 33, "student.window": 21},
        "rollout_frames is 33, but the second window of a video that goes on ends with frame 36, so only beginnings",
    ),
    ({"critic.windows": "fresh"}, "a video has 3 windows, so the student would get one in 3 of them"),
    ({"accumulate": 4}, "accumulate is 4 for 2 samples a step in each process"),
    ({"batch": 0}, "batch is 0; it must be at least 1"),
    ({"conditioning.prompts": "none.txt"}, "none.txt is no file; name a text file of prompts"),
    ({"init": "none.safetensors"}, "none.safetensors"),
]


@pytest.mark.parametrize(("settings", "sentence"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_configuration_that_cannot_work_is_refused_in_a_sentence(
    files: dict[str, str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    settings: dict[str, object],
    sentence: str,
) -> None:
    assert sentence in refusal(files, caplog, tmp_path, "sfpp", settings)


@pytest.mark.parametrize(("longest", "windows"), [(21, 1), (36, 2), (48, 2), (420, 27)])
def test_a_video_that_goes_on_has_one_window_or_several(files: dict[str, str], longest: int, windows: int) -> None:
    sizes = {"window.frames": 21, "window.masked_frames": 6, "student.window": 21, "history": "streaming"}
    config = config_of(files, SFPP, sizes, {"window.rollout_frames": longest})
    assert windows_in_video(config.window, 3) == windows


def test_self_forcing_rolls_out_one_window(
    files: dict[str, str], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    said = refusal(files, caplog, tmp_path, "self_forcing", {"window.rollout_frames": 12})
    assert "Make them equal, or run the sfpp stage" in said


def test_prompts_that_hold_none_are_refused(
    files: dict[str, str], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    said = refusal(files, caplog, tmp_path, "sfpp", {"conditioning.prompts": empty})
    assert str(empty) in said and "holds no prompt" in said


@pytest.mark.parametrize("key", ["init", "teacher", "critic.init", "vae"])
def test_a_file_that_is_no_checkpoint_is_refused(
    files: dict[str, str], caplog: pytest.LogCaptureFixture, tmp_path: Path, key: str
) -> None:
    path = tmp_path / "notes.safetensors"
    path.write_text("shopping list")
    assert str(path) in refusal(files, caplog, tmp_path, "sfpp", {key: path})


@pytest.mark.parametrize("key", ["init", "teacher", "critic.init"])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"text_dim": 32}, "reads embeddings 32 wide, but those of conditioning are 4096 wide"),
        ({"in_channels": 48, "out_channels": 48}, "found a Wan 2.2 5B model"),
    ],
)
def test_a_network_of_other_latents_or_texts_is_refused(
    files: dict[str, str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    key: str,
    change: dict[str, int],
    sentence: str,
) -> None:
    path = tmp_path / "other.safetensors"
    save_network(path, replace(MODEL, **change), kind="student" if key == "init" else "teacher")
    said = refusal(files, caplog, tmp_path, "sfpp", {key: path})
    assert str(path) in said and sentence in said


@pytest.mark.parametrize("stage", ["sfpp", "self_forcing"])
@pytest.mark.parametrize("family", ["tiny", "wan"])
def test_the_configurations_that_come_along_can_be_read(family: str, stage: str) -> None:
    kind = {"sfpp": sfpp.SfppStageConfig, "self_forcing": self_forcing.SelfForcingStageConfig}[stage]
    config = load_config(kind, CONFIGS / family / f"{stage}.yaml")
    assert (config.window.frames, config.student.rollout().timesteps) == (21, RolloutConfig().timesteps)
    assert (config.window.rollout_frames > 21) == (stage == "sfpp")
