"""Every stage at its smallest, one after the other as docs/tiny.md tells it, through the command line's own entry."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sfpp_core.tiny.family import load_family_text_encoder, load_student, load_teacher, load_vae
from sfpp_core.wan.config import to_model_space
from sfpp_core.wan.vae import WanVAE, WanVAEConfig
from tests.helpers.smoke_family import CONFIGS, FRAMES, SHORT, make_teacher, run_stage, teacher_words, vae_word
from training.__main__ import main
from training.config import ConfigError
from training.data.clips import ClipSource, LatentClips, clip_shards
from training.stages.vae import fold_normalisation


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages, two steps each, 32x32 pixels."""
    folder = tmp_path_factory.mktemp("family")
    make_teacher(folder)
    vae, teacher = vae_word(folder), teacher_words(folder)
    clips = f"data=[{{folder: {folder / 'latents'}, clips: 4}}]"
    run_stage("causal_init", folder, *SHORT, vae, clips, *teacher, "batch=2", f"frames={FRAMES}", "steps=2")
    parts = [vae, *teacher, f"student={folder / 'causal_init' / 'student.safetensors'}"]
    reader = f"reader={folder / 'reader' / 'reader.safetensors'}"
    few = ["prompts=2", "student_prompts=1", "batch=1", "sample_steps=2"]
    run_stage("evaluate_tiny", folder, *parts, reader, *few, "size=32", "teacher_frames=6", "student_seconds=1.5")
    return folder


def go_on(family: Path, folder: Path, *words: str) -> None:
    """Two more steps of the family's teacher."""
    phases = f"phases=[{{start: 0, data: [{{folder: {family / 'latents'}, clips: 4}}], batch: 2, frames: 6}}]"
    begin = [f"vae={family / 'vae' / 'vae.safetensors'}", phases, "model=null", f"init={family / 'teacher'}"]
    run_stage("teacher", folder, *SHORT, *begin, "steps=2", "sample_steps=2", *words)


def test_a_teacher_goes_on_from_another(family: Path, tmp_path: Path) -> None:
    """With a learning rate of next to nothing it still is the one that it began as."""
    go_on(family, tmp_path, "optimizer.lr=1e-9")
    before = load_teacher(family / "teacher" / "teacher.safetensors").state_dict()
    after = load_teacher(tmp_path / "teacher" / "teacher.safetensors").state_dict()
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, atol=1e-5, rtol=0, msg=name)


def test_a_teacher_learns_on_while_its_text_encoder_stays(family: Path, tmp_path: Path) -> None:
    go_on(family, tmp_path, "train_text_encoder=false")
    parts = {"teacher": load_teacher, "text_encoder": load_family_text_encoder}
    for part, load in parts.items():
        before, after = (load(run / "teacher" / f"{part}.safetensors").state_dict() for run in (family, tmp_path))
        same = all(torch.equal(after[name], weight) for name, weight in before.items())
        assert same == (part == "text_encoder"), part


def test_clips_of_several_folders_are_cut_to_one_length(family: Path) -> None:
    source = ClipSource(folder=str(family / "latents"), clips=3)
    clips = LatentClips.read([source, ClipSource(folder=source.folder, clips=1)], 2)
    assert clips.latents.shape[:3] == (4, 16, 2) and len(clips) == 4
    assert torch.equal(clips.latents[0], clips.latents[3]) and clips.prompts[0] == clips.prompts[3]
    with pytest.raises(ConfigError, match="holds clips of 6 latent frames, 7 are wanted"):
        LatentClips.read([source], 7)


def test_every_part_of_the_family_loads_as_it_will_be_shipped(family: Path) -> None:
    vae = load_vae(family / "vae" / "vae.safetensors")
    teacher = load_teacher(family / "teacher" / "teacher.safetensors")
    encoder = load_family_text_encoder(family / "teacher" / "text_encoder.safetensors")
    student, rollout = load_student(family / "causal_init" / "student.safetensors")
    assert vae.config.dim == 4
    assert teacher.config == student.config
    assert teacher.config.text_dim == encoder.config.text_dim
    assert (rollout.chunk, rollout.window, rollout.steps) == (3, 21, (1000, 750, 500, 250))


def test_a_file_of_another_part_is_refused(family: Path) -> None:
    with pytest.raises(ValueError, match="holds 'teacher'; a file of kind 'student' is needed"):
        load_student(family / "teacher" / "teacher.safetensors")


def test_headers_tell_how_the_weights_were_made_but_not_where(family: Path) -> None:
    for path in family.glob("*/*.safetensors"):
        if path.parent.name == "latents":
            continue
        with safe_open(path, framework="pt") as file:
            header = file.metadata()["sfpp"]
        record = json.loads(header)["training"]
        assert record["steps"] == 2 and "seed" in record and "run" not in record["config"]
        assert str(family) not in header, "a header tells what was used by name, not where it lay"


def test_runs_leave_sheets_videos_and_curves(family: Path) -> None:
    for path in ("vae/board/reconstructions_000002", "teacher/board/samples_000002", "evaluate_tiny/teacher"):
        assert (family / f"{path}.png").stat().st_size > 0
        assert (family / f"{path}.mp4").stat().st_size > 0
    assert list((family / "teacher" / "board").glob("events*"))


def test_the_report_judges_truth_autoencoder_teacher_and_both_ends_of_the_rollout(family: Path) -> None:
    report = json.loads((family / "evaluate_tiny" / "report.json").read_text())
    assert set(report) == {"truth", "vae", "teacher", "student"}
    assert set(report["student"]) == {"first_window", "last_window"}
    for row in (report["truth"], report["teacher"], *report["student"].values()):
        assert set(row) == {"place", "object", "colour", "motion", "speed", "all", "luminance"}
        assert 0 <= row["luminance"] <= 1


def test_the_latents_stage_goes_on_at_the_first_missing_shard(family: Path) -> None:
    folder = family / "latents"
    all_four = [ClipSource(folder=str(folder), clips=4)]
    before = LatentClips.read(all_four, 6)
    shards = clip_shards(folder)
    shards.path(1).unlink()
    kept = shards.path(0).stat().st_mtime_ns
    with pytest.raises(ConfigError, match="holds 1 of 2 shards of clips, .* finish making them .*training latents"):
        LatentClips.read([ClipSource(folder=str(folder), clips=2)], 6)
    vae = f"vae={family / 'vae' / 'vae.safetensors'}"
    run_stage("latents", family, vae, "clips=4", "shard=2", "batch=1", "frames=6", "size=32", "precision=float32")
    after = LatentClips.read(all_four, 6)
    assert shards.path(0).stat().st_mtime_ns == kept
    assert torch.equal(before.latents, after.latents) and before.prompts == after.prompts
    with pytest.raises(ConfigError, match="holds 4 clips, 5 are wanted"):
        LatentClips.read([ClipSource(folder=str(folder), clips=5)], 6)


def test_clips_that_hold_no_numbers_are_not_written(
    family: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = load_file(family / "vae" / "vae.safetensors")
    weights["encoder.head.2.bias"].fill_(torch.nan)
    with safe_open(family / "vae" / "vae.safetensors", framework="pt") as file:
        save_file(weights, tmp_path / "vae.safetensors", metadata=file.metadata())
    words = ["clips=2", "shard=2", "batch=1", "frames=6", "size=32", f"vae={tmp_path}/vae.safetensors"]
    command = ["latents", "--config", str(CONFIGS / "latents.yaml"), *words, f"run.out={tmp_path}/latents"]
    assert main(command) == 1
    said = caplog.records[-1].getMessage()
    assert "clips-00000.safetensors was not written: its latents hold non-finite values (NaN)" in said
    assert not list((tmp_path / "latents").glob("*.safetensors"))


def test_folding_normalises_the_latents_and_leaves_the_reconstruction() -> None:
    torch.manual_seed(0)
    vae = WanVAE(WanVAEConfig(dim=4))
    with torch.no_grad():
        vae.conv1.bias[:16] += torch.linspace(-3, 3, 16)
    video = torch.rand(2, 3, 9, 32, 32) * 2 - 1
    mean, logvar = (part.detach() for part in vae.encode_moments(video))
    folded = WanVAE.from_state_dict(fold_normalisation(vae.state_dict(), mean))

    with torch.no_grad():
        new_mean, new_logvar = folded.encode_moments(video)
        before, after = vae.decode_clip(mean), folded.decode_clip(new_mean)
    normal = to_model_space(new_mean)
    assert torch.allclose(normal.mean(dim=(0, 2, 3, 4)), torch.zeros(16), atol=1e-3)
    assert torch.allclose(normal.std(dim=(0, 2, 3, 4)), torch.ones(16), atol=1e-3)
    assert torch.allclose(before, after, atol=1e-3)
    ratio = (0.5 * new_logvar).exp() / (0.5 * logvar).exp() * mean.std(dim=(0, 2, 3, 4))[None, :, None, None, None]
    wan_std = new_mean.std(dim=(0, 2, 3, 4))[None, :, None, None, None]
    assert torch.allclose(ratio, wan_std.expand_as(ratio), rtol=1e-2), "the posterior's noise keeps its share"


def test_a_signal_to_the_whole_process_group_pauses_a_run(tmp_path: Path) -> None:
    """As Ctrl-C in a terminal or a cluster's scheduler sends it: to the workers too."""
    sizes = ["phases=[{start: 0, batch: 1, frames: 5, crop: 16}]", "dim=4", "size=32", "steps=100000"]
    out = tmp_path / "vae"
    words = [*sizes, "run.workers=2", "run.save_minutes=1e-6", f"run.out={out}"]
    command = [sys.executable, "-m", "training", "vae", "--config", str(CONFIGS / "vae.yaml"), *words]
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(command, stdout=log, stderr=log, cwd=CONFIGS.parents[2], start_new_session=True)
        try:
            while not any(out.glob("checkpoint-*")) and run.poll() is None:
                time.sleep(0.05)
            os.killpg(run.pid, signal.SIGTERM)
            run.wait(timeout=60)
        finally:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode == 0
    assert "the same command goes on" in (tmp_path / "log").read_text()
