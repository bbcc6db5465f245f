"""Processes, micro-batches and recomputation change how a step is computed, not what it is."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.kv_cache import RollingKVCache
from sfpp_core.wan.config import WanConfig
from sfpp_core.wan.transformer import WanTransformer
from tests.helpers.line_task import (
    ExplodingLine,
    LineConfig,
    LineTask,
    assert_same_state,
    fit,
    make_config,
    paused,
    run_line,
    saved_state,
    saving_always,
    tensors_of,
)
from tests.helpers.processes import exit_codes, run_together, start_together
from tests.helpers.stage_cases import CASES, write_files
from training.__main__ import main
from training.config import ConfigError, OptimizerConfig, RunConfig, TrainConfig
from training.engine.checks import TrainingDiverged
from training.engine.distributed import DistContext, gathered, joined, place, place_frozen, recompute_blocks, whole
from training.engine.micro_batches import micro_batches
from training.engine.run_folder import RunFolder

ROOT = Path(__file__).parents[3]
MODEL = WanConfig(dim=128, ffn_dim=64, num_heads=1, num_layers=2, text_dim=32)


def test_a_batch_is_shared_out_equally() -> None:
    parts = [DistContext(rank=rank, size=4).samples(8) for rank in range(4)]
    assert [sample for part in parts for sample in part] == list(range(8))
    with pytest.raises(ConfigError, match="batch is 6 for 4 processes"):
        DistContext(size=4).samples(6)
    with pytest.raises(ConfigError, match="groups is 4 for 3 processes"):
        DistContext(size=3).samples(4, key="groups")


def _is_refused(command: list[str], sentence: str) -> None:
    said: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = said.append
    logging.getLogger().addHandler(handler)
    assert main(command) == 2
    assert said[-1].getMessage().startswith(sentence)


CLIPS = "frames: 5, crop: 16"


@pytest.mark.parametrize(
    ("case", "word", "sentence"),
    [
        ("grpo", "groups=3", "groups is 3 for 2 processes"),
        (
            "vae",
            f"phases=[{{start: 0, batch: 2, {CLIPS}}}, {{start: 1, batch: 3, {CLIPS}}}]",
            "batch of a phase is 3 for 2 processes",
        ),
    ],
)
def test_what_cannot_be_shared_out_is_refused_by_its_name_before_the_run_takes_its_folder(
    case: str, word: str, sentence: str, tmp_path: Path
) -> None:
    write_files(tmp_path)
    out = tmp_path / "runs" / "out"
    run_together(_is_refused, CASES[case].command(out, word), sentence)
    assert not out.exists()


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixed:
    video: Tensor
    prompts: list[str]
    samples: range
    title: str = "all"


def test_micro_batches_cut_whatever_has_samples() -> None:
    batch = Mixed(video=torch.arange(8).reshape(4, 2), prompts=list("abcd"), samples=range(4, 8))
    first, second = micro_batches(batch, 2)
    assert (first.samples, second.samples) == (range(4, 6), range(6, 8))
    assert second.prompts == ["c", "d"] and second.title == "all"
    assert torch.equal(torch.cat([first.video, second.video]), batch.video)
    with pytest.raises(ConfigError, match="accumulate is 3 for 4 samples"):
        micro_batches(batch, 3)
    with pytest.raises(ConfigError, match="write accumulate=1"):
        micro_batches(torch.zeros(4), 2)


def test_accumulation_and_processes_together_are_one_batch(tmp_path: Path) -> None:
    """Small networks are replicated, with gradients averaged."""
    whole_batch = make_config(tmp_path / "whole", batch=8)
    fit(LineTask(whole_batch), whole_batch)
    cut = replace(make_config(tmp_path / "cut", batch=8), accumulate=2)
    run_together(run_line, cut)
    assert_same_state(saved_state(whole_batch), saved_state(cut), within=1e-6)


def _diverges(config: LineConfig) -> None:
    with pytest.raises(TrainingDiverged, match="^step 1: .* is nan"):
        run_line(config)


def test_a_loss_that_is_no_number_in_one_process_stops_all(tmp_path: Path) -> None:
    config = make_config(tmp_path, poison=1)
    run_together(run_line, paused(config))
    run_together(_diverges, config)
    assert RunFolder(config, stage="line").step == 1


def _explodes(config: LineConfig) -> None:
    with joined(config.device), pytest.raises(TrainingDiverged, match=r"optimizer\.explosion=100 times"):
        fit(ExplodingLine(config, start=41), config)


def test_processes_keep_the_same_checkpoint_from_before_an_explosion(tmp_path: Path) -> None:
    config = saving_always(make_config(tmp_path, steps=60))
    run_together(_explodes, config)
    assert RunFolder(config, stage="line").step == 41


@pytest.mark.endurance
def test_a_lost_process_ends_the_run_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """Under torchrun itself."""
    out, steps = tmp_path / "run", 100_000
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.helpers.line_task", str(out), str(steps)]
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)
        try:
            while not list(out.glob("checkpoint-*")) and run.poll() is None:
                time.sleep(0.05)
            ranks = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
            os.kill(int(ranks[-1]), signal.SIGKILL)
            assert run.wait(timeout=120) != 0
        finally:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
    config = make_config(out, steps=steps)
    reached = RunFolder(config, stage="line").step
    assert reached > 0
    run_together(run_line, paused(config))
    assert saved_state(config)["step"] == reached + 1


def train_config(**run: object) -> TrainConfig:
    return TrainConfig(
        run=RunConfig(out="unused", device="cpu", **run),
        steps=1,
        precision="bfloat16",
        optimizer=OptimizerConfig(lr=1, warmup=0),
    )


def _network() -> WanTransformer:
    torch.manual_seed(0)
    network = WanTransformer(MODEL)
    torch.nn.init.normal_(network.head.head.weight, std=0.1)
    return network


def _inputs() -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(2, 16, 3, 4, 4, generator=draw), torch.full((2, 3), 937.5), torch.randn(2, 5, 32, generator=draw)


def _serve_a_rollout() -> None:
    config, (x, timestep, text) = train_config(), _inputs()
    plain, frozen, trained = _network().to(torch.bfloat16), _network(), _network()
    with joined(config.device) as world, torch.no_grad(), config.autocast():
        place_frozen(frozen, config)
        place(trained, config)
        expected = plain(x, timestep, plain.embed_text(text))
        for network in (frozen, trained):
            assert torch.equal(network(x, timestep, network.embed_text(text)), expected)
            with gathered(network):
                # Different numbers of calls, and parts called on their own: nothing here waits for the other process.
                for _ in range(1 + world.rank):
                    assert torch.equal(network(x, timestep, network.embed_text(text)), expected)
                network.text_embedding(text)
            assert all(
                whole(weight).shape == plain.get_parameter(name).shape for name, weight in network.named_parameters()
            )


def test_a_sharded_network_is_rolled_out_as_a_whole_one_in_the_compute_dtype() -> None:
    run_together(_serve_a_rollout)


def _refuses_to_compile() -> None:
    config = train_config(compile=True)
    with joined(config.device), pytest.raises(ConfigError, match="run.compile=false"):
        place(_network(), config)


def test_compiling_a_sharded_network_is_refused() -> None:
    assert exit_codes(start_together(_refuses_to_compile)) == [0, 0]


def _cache(network: WanTransformer) -> RollingKVCache:
    """A full cache of two chunks of one frame."""
    rollout = RolloutConfig(chunk=1, window=3, steps=(1000.0,))
    x, _, text = _inputs()
    cache = RollingKVCache(MODEL, rollout, batch=2, tokens_per_frame=4, device="cpu", dtype=torch.float32)
    with torch.no_grad():
        for frame in range(4):
            network(x[:, :, :1] + frame, torch.zeros(2, 1), text, cache=cache)
            cache.commit(1)
    return cache


@pytest.mark.parametrize("cached", [False, True])
def test_recomputed_gradients_are_the_same_bit_for_bit(cached: bool) -> None:
    x, timestep, text = _inputs()
    gradients = []
    for recomputes in (False, True):
        network = _network()
        if recomputes:
            recompute_blocks(network)
        cache = _cache(network) if cached else None
        frames = slice(0, 1) if cached else slice(None)
        flow = network(x[:, :, frames], timestep[:, frames], text, cache=cache)
        flow.square().mean().backward()
        gradients.append({name: weight.grad for name, weight in network.named_parameters()})
    assert tensors_of(gradients[0]).keys() == tensors_of(gradients[1]).keys()
    assert_same_state(*gradients, within=0)
    assert all(gradient.abs().sum() > 0 for name, gradient in gradients[0].items() if "k.bias" not in name)


def test_recomputing_against_a_cache_that_has_moved_is_an_error() -> None:
    x, timestep, text = _inputs()
    network = _network()
    recompute_blocks(network)
    cache = _cache(network)
    flow = network(x[:, :, :1], timestep[:, :1], text, cache=cache)
    cache.commit(1)
    with pytest.raises(RuntimeError, match="after 4 frames goes backward when its cache holds 5"):
        flow.mean().backward()
