"""The grpo stage at its smallest: what it learns from, what it leaves, and that nothing depends on how it is cut up."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.rollout import Rollout
from sfpp_core.rollout.state import RolloutState
from sfpp_core.tiny.family import load_student
from sfpp_core.wan.config import WanConfig
from sfpp_core.wan.transformer import WanTransformer
from sfpp_core.wan.vae import WanVAE, WanVAEConfig
from tests.helpers.metrics import logged
from training.__main__ import main
from training.config import ConfigError, load_config
from training.data.prompt_embeds import Conditioning, ConditioningConfig
from training.engine.distributed import DistContext
from training.engine.micro_batches import micro_batches
from training.engine.run_folder import INPUTS_NAME, RunFolder
from training.models.export import StudentConfig, write_student, write_weights
from training.models.open import open_transformer
from training.stages.grpo import GrpoStageConfig, GrpoTask

CONFIG = Path(__file__).parents[3] / "training" / "configs" / "tiny" / "grpo.yaml"
PROMPTS = ("A red ball rolls to the left in a desert.", "A blue kite flies over the sea.", "A green ball bounces.")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained student and autoencoder, and prompts. A fresh student's head predicts no flow; this one's does."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    network = WanTransformer(WanConfig(dim=128, ffn_dim=64, num_heads=1, num_layers=1, text_dim=4096))
    torch.nn.init.normal_(network.head.head.weight, std=0.05)
    record = {"stage": "test", "steps": 0}
    write_student(folder / "student.safetensors", network, StudentConfig(steps=[1000, 500]), record)
    vae = WanVAE(WanVAEConfig(dim=4))
    write_weights(folder / "vae.safetensors", vae.state_dict(), {"kind": "vae", "model": asdict(vae.config)})
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    return folder


def words(parts: Path, out: Path, *more: str) -> list[str]:
    """Two steps of two groups of two videos of six latent frames, 32 x 32 pixels."""
    files = [f"init={parts / 'student.safetensors'}", f"vae={parts / 'vae.safetensors'}"]
    files += [f"conditioning.prompts={parts / 'prompts.txt'}", f"run.out={out}"]
    sizes = ["frames=6", "width=32", "height=32", "groups=2", "group_size=2", "starting_films=1", "steps=2"]
    student = ["student.steps=[1000,750,500]", "accumulate=1"]
    schedule = ["optimizer.warmup=0", "optimizer.decay=1", "optimizer.lr=1e-3"]
    run = ["run.workers=0", "run.log_every=1", "run.watch_every=1"]
    return [*files, *sizes, *student, *schedule, *run, *more]


def trained(parts: Path, out: Path, *more: str) -> dict[str, torch.Tensor]:
    assert main(["grpo", "--config", str(CONFIG), *words(parts, out, *more)]) == 0
    return load_file(out / "student.safetensors") if (out / "student.safetensors").is_file() else {}


def configured(parts: Path, out: Path, *more: str) -> GrpoStageConfig:
    return load_config(GrpoStageConfig, CONFIG, words(parts, out, *more))


@pytest.fixture(scope="module")
def run(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stage run from beginning to end."""
    out = tmp_path_factory.mktemp("grpo")
    trained(parts, out)
    return out


def test_the_student_is_exported_as_it_is_loaded_and_has_learnt(parts: Path, run: Path) -> None:
    student, rollout = load_student(run / "student.safetensors")
    assert (rollout.steps, rollout.chunk, rollout.window) == ((1000, 750, 500), 3, 21)
    before = open_transformer(str(parts / "student.safetensors")).state_dict()
    changed = [name for name, weight in student.state_dict().items() if not torch.equal(weight, before[name])]
    assert len(changed) > len(before) / 2
    assert all(torch.isfinite(weight).all() for weight in student.state_dict().values())


def test_the_board_tells_reward_motion_and_how_far_the_policy_has_moved(run: Path) -> None:
    curves = logged(run)
    for name in ("reward", "reward_spread", "flow", "starting_flow", "flow_variance", "objective", "clipped", "kl"):
        assert len(curves[name]) == 2, name
    assert all(0 <= reward <= 1 for reward in curves["reward"])
    assert all(deviation > 0 for deviation in curves["ratio_deviation"]), "the second update of a batch has left 1"
    assert all(flow > 0 for flow in curves["flow"]) and len(curves["watched/reward"]) == 2
    assert (run / "board" / "films_000002.mp4").stat().st_size > 0


def test_a_run_in_pieces_equals_the_run_in_one_piece_bit_for_bit(parts: Path, run: Path, tmp_path: Path) -> None:
    for _ in range(2):
        pieces = trained(parts, tmp_path, "run.max_minutes=1e-9")
    whole = load_file(run / "student.safetensors")
    assert pieces.keys() == whole.keys()
    assert all(torch.equal(weight, whole[name]) for name, weight in pieces.items())


def test_videos_taken_in_parts_are_one_step(parts: Path, tmp_path: Path) -> None:
    """The learning rate is large, so that a gradient of another size would show; Adam would hide it in the first."""
    whole, apart = (
        GrpoTask(configured(parts, tmp_path, f"accumulate={count}", "optimizer.betas=[0.9,0.9]")) for count in (1, 2)
    )
    for step in range(2):
        alone, together = apart.train_step(None, step), whole.train_step(None, step)
        for name in ("reward", "flow", "gradient_norm", "kl"):
            assert alone[name] == pytest.approx(together[name], rel=1e-3, abs=1e-9), name


def test_videos_are_those_that_inference_makes_of_their_prompts_and_seeds_bit_for_bit(
    parts: Path, tmp_path: Path
) -> None:
    config = configured(parts, tmp_path, "accumulate=4")
    task = GrpoTask(config)
    prompts, seeds = task.drawn(0)
    assert prompts[0] == prompts[1] and prompts[2] == prompts[3], "a group is of one prompt"
    assert len(set(seeds)) == 4 and set(seeds).isdisjoint(task.drawn(1)[1])

    network = open_transformer(str(parts / "student.safetensors"))
    texts = Conditioning.open(ConditioningConfig(prompts=str(parts / "prompts.txt")))
    for trajectory, prompt, seed in zip(task.videos(0), prompts, seeds, strict=True):
        state = RolloutState(config=config.student.rollout(), seed=seed, model_id="any", shape=(1, 16, 4, 4))
        rollout = Rollout(network, state, texts.text([prompt]))
        with torch.no_grad():
            list(rollout.run(2))
        assert torch.equal(trajectory.made.latents, rollout.state.latents)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("group_size=1", "group_size is 1; videos are compared, so it must be at least 2"),
        ("frames=4", "frames is 4; it must be a multiple of student.chunk, 3, and at least 3"),
        ("least_motion=0", "least_motion is 0; it must lie in"),
        ("groups=0", "groups is 0; it must be at least 1"),
        ("width=30", "width is 30; it must be a positive multiple of 16 pixels"),
        ("student.window=2", "window is 2, but it must hold"),
        ("policy.clip=2", "policy.clip is 2; it must lie between 0 and 1"),
        ("run.compile=true", "grpo has nothing to compile.* Write run.compile=false"),
        ("policy.epsilon=2", "there is no key 'policy.epsilon' in this stage"),
    ],
)
def test_what_cannot_work_is_refused_at_once(parts: Path, tmp_path: Path, word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configured(parts, tmp_path, word)


def test_warm_up_and_decay_are_counted_in_updates_of_which_a_step_has_several(parts: Path, tmp_path: Path) -> None:
    plan = ("steps=100", "policy.updates=2", "optimizer.warmup=60")
    config = configured(parts, tmp_path, *plan, "optimizer.decay=120")
    assert config.steps_before_decay == 40
    RunFolder(config, stage="grpo").save(40, {})
    RunFolder(replace(config, steps=200), stage="grpo").save(141, {})
    with pytest.raises(ConfigError, match="these keys differ: steps"):
        RunFolder(config, stage="grpo")
    with pytest.raises(ConfigError, match="is 201 but there are 200 updates; shorten them or train longer"):
        configured(parts, tmp_path, *plan, "optimizer.decay=141")


def test_a_starting_student_that_changes_under_a_run_is_refused(
    parts: Path, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is opened again at every start, as what the penalty holds to and as the measure of motion."""
    init, out = tmp_path / "student.safetensors", tmp_path / "out"
    init.write_bytes((parts / "student.safetensors").read_bytes())
    command = ["grpo", "--config", str(CONFIG), *words(parts, out, f"init={init}")]
    assert main([*command, "run.max_minutes=1e-9"]) == 0
    shutil.copy(run / "student.safetensors", init)
    assert main(command) == 2
    assert f"{init}, which init names, is not the file that the run in {out} has worked with so far" in caplog.text

    shutil.copy(parts / "student.safetensors", init)
    assert main([*command, "run.max_minutes=1e-9"]) == 0
    pieces, whole = (load_file(folder / "student.safetensors") for folder in (out, run))
    assert all(torch.equal(weight, whole[name]) for name, weight in pieces.items())


def test_a_run_that_has_no_record_of_its_files_or_has_made_nothing_of_them_goes_on(parts: Path, tmp_path: Path) -> None:
    init, out = tmp_path / "student.safetensors", tmp_path / "out"
    config = configured(parts, out, f"init={init}")

    def resumed(content: bytes) -> RunFolder:
        init.write_bytes(content)
        return RunFolder(config, stage="grpo")

    resumed(b"first")
    folder = resumed(b"second")
    folder.save(1, {})
    with pytest.raises(ConfigError, match="has worked with so far"):
        resumed(b"third")
    (out / INPUTS_NAME).unlink()
    assert resumed(b"third").step == 1
    init.unlink()
    RunFolder(config, stage="grpo")
    with pytest.raises(ConfigError, match="has worked with so far"):
        resumed(b"fourth")


def test_the_configuration_for_wan_gives_each_of_eight_processes_a_group_and_a_video_at_a_time() -> None:
    config = load_config(GrpoStageConfig, CONFIG.parents[1] / "wan" / "grpo.yaml")
    assert (config.width, config.height, config.compute_dtype) == (832, 480, torch.bfloat16)
    videos = range(len(DistContext(rank=7, size=8).samples(config.groups)) * config.group_size)
    assert [len(part) for part in micro_batches(videos, config.accumulate)] == [1] * config.group_size
    assert config.student.rollout() == RolloutConfig() and config.run.checkpoint_activations


def test_videos_that_cannot_be_shared_out_are_refused(parts: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="accumulate is 3"):
        GrpoTask(configured(parts, tmp_path, "accumulate=3"))
