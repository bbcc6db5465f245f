"""What a step costs at full size is counted right: FLOPs, bytes, calls, and what the documentation quotes of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.flow import SeededNoise
from sfpp_core.rollout.kv_cache import RollingKVCache
from sfpp_core.rollout.state import RolloutState
from sfpp_core.wan.config import WAN21, WAN21_T2V_1_3B, WanConfig, WanVAEConfig
from sfpp_core.wan.transformer import WanTransformer
from training.config import ConfigError, load_config
from training.scaling.__main__ import main, read_config
from training.scaling.config import ScalingConfig
from training.scaling.costs import META, PassCosts, count_network, count_passes
from training.scaling.counting import LiveBytes, Pass, count
from training.scaling.kernels import flash_attention, fuse_norms
from training.scaling.measure import measurement, step_of
from training.scaling.memory import cache_bytes, memory
from training.scaling.passes import Passes, Training
from training.scaling.schedule import Calls, restarting, streaming
from training.scaling.traffic import received_bytes
from training.scaling.work import methods, work
from training.self_forcing.rollouts import (
    RolloutInputs,
    RolloutPlan,
    Streaming,
    backpropagate,
    record,
    roll,
    windows_in_video,
)
from training.self_forcing.windows import WARMUP_FRAMES, WindowConfig
from training.stages import causal_init, self_forcing, sfpp

DOCUMENT = Path(__file__).parents[2] / "docs" / "scaling.md"
CONFIGS = Path(__file__).parents[2] / "training" / "configs" / "wan"
CPU = torch.device("cpu")
SMALL = WanConfig(dim=32, ffn_dim=48, num_heads=2, num_layers=2, text_dim=24)
CONFIG = ScalingConfig(
    student=SMALL,
    teachers={"small": SMALL, "wide": replace(SMALL, dim=64, num_layers=3)},
    vae=WanVAEConfig(dim=4, dim_mult=(1, 1, 1), num_res_blocks=1, temporal_downsample=(True, True)),
    rollout=RolloutConfig(chunk=2, window=6),
    window=WindowConfig(frames=6, rollout_frames=16, masked_frames=3),
    height=32,
    width=48,
    text_tokens=5,
    critic_updates=2,
    gpus=(1, 4),
)
PER_FRAME = CONFIG.tokens_per_frame


@pytest.fixture(scope="module")
def costs() -> PassCosts:
    return count_passes(CONFIG)


def block_flops(model: WanConfig, frames: int) -> float:
    """All blocks in a forward pass of a clip, by hand: 2 m n k a product."""
    tokens, text, dim = frames * PER_FRAME, CONFIG.text_tokens, model.dim
    attention = 2 * 2 * tokens * tokens * dim
    cross_attention = 2 * 2 * tokens * text * dim
    projections = 2 * dim * dim * (4 * tokens + 2 * tokens + 2 * text)
    block = attention + cross_attention + projections + 2 * 2 * tokens * dim * model.ffn_dim
    return model.num_layers * block


def clip_flops(model: WanConfig, frames: int) -> float:
    """A forward pass of a clip, by hand."""
    tokens, text, dim = frames * PER_FRAME, CONFIG.text_tokens, model.dim
    patch = model.in_channels * WAN21.patch**2
    embeddings = 2 * tokens * patch * dim + 2 * text * (model.text_dim * dim + dim * dim)
    times = 2 * frames * (model.freq_dim * dim + dim * dim + 6 * dim * dim)
    return block_flops(model, frames) + embeddings + times + 2 * tokens * dim * patch


def test_flops_of_a_layer_and_of_attention_are_those_of_the_formulas() -> None:
    x = torch.empty(7, 5, device="meta", requires_grad=True)
    layer = torch.nn.Linear(5, 3, device="meta")
    assert count(Pass(lambda: layer(x))).flops == 2 * 7 * 5 * 3
    assert count(Pass(lambda: layer(x), backward=True)).flops == 3 * 2 * 7 * 5 * 3

    queries = torch.empty(1, 6, 2, 8, device="meta", requires_grad=True)
    keys = torch.empty(1, 9, 2, 8, device="meta", requires_grad=True)
    product = 2 * 2 * 6 * 9 * 8
    attend = Pass(lambda: flash_attention(queries, keys, keys))
    assert count(attend).flops == 2 * product
    # Backward: dV, dP, dQ, dK, and the scores once more.
    assert count(replace(attend, backward=True)).flops == 7 * product


@pytest.mark.endurance
def test_flops_of_a_clip_are_those_of_its_products(costs: PassCosts) -> None:
    assert costs.critic.flops == clip_flops(SMALL, CONFIG.window.frames)
    assert costs.teacher["wide"].flops == clip_flops(CONFIG.teachers["wide"], CONFIG.window.frames)


def test_flops_of_teacher_forcing_are_those_of_what_is_seen() -> None:
    """Four clean and six noisy frames: layers for ten, attention for no more pairs than in a clip of six."""
    seen = 2 * 2 + 2 * 4 + 2 * 2 + 2 * 4 + 2 * 6
    more_than_seen = SMALL.num_layers * 2 * 2 * SMALL.dim * (10 * 10 - seen) * PER_FRAME**2
    passes = Passes(CONFIG, device=META, dtype=torch.bfloat16)
    assert count(passes.teacher_forcing(SMALL)).flops == clip_flops(SMALL, 10) - more_than_seen
    assert seen == 6 * 6


def test_checkpointing_computes_the_blocks_once_more(costs: PassCosts) -> None:
    more = costs.critic_training[True].flops - costs.critic_training[False].flops
    assert more == block_flops(SMALL, CONFIG.window.frames)
    assert costs.critic_training[True].kept_bytes < 0.25 * costs.critic_training[False].kept_bytes


@pytest.mark.parametrize("checkpointing", [False, True])
def test_deep_networks_are_counted_from_shallow_ones(checkpointing: bool) -> None:
    passes, deep = Passes(CONFIG, device=META, dtype=torch.bfloat16), replace(SMALL, num_layers=6)
    training = Training(checkpointing)
    grown = count_network(lambda model: passes.chunk(model, 4, training), deep)
    assert count(passes.chunk(deep, 4, training)) == grown


def test_a_long_video_is_watched_in_the_memory_of_a_short_one(costs: PassCosts) -> None:
    longer = count(Passes(CONFIG, device=META, dtype=torch.bfloat16).watch(8))
    assert longer.peak_bytes == costs.watch[3].peak_bytes
    assert longer.flops == pytest.approx(costs.watch[3].flops + 5 * costs.frame_flops)


def test_a_chunk_costs_linearly_more_with_its_past(costs: PassCosts) -> None:
    passes = Passes(CONFIG, device=META, dtype=torch.bfloat16)
    assert costs.chunk.flops(2) == count(passes.chunk(SMALL, 2)).flops
    assert costs.chunk_training[True].flops(2) == count(passes.chunk(SMALL, 2, Training(True))).flops
    assert costs.chunk.alone.flops < costs.chunk.flops(2) < costs.chunk.full.flops


@pytest.mark.parametrize("checkpointing", [False, True])
def test_counted_bytes_are_those_that_the_allocator_hands_out(checkpointing: bool) -> None:
    """On real tensors, against PyTorch's own trace of its CPU allocator."""
    clip = Passes(CONFIG, device=CPU, dtype=torch.float32).clip(SMALL, Training(checkpointing))
    counted = count(clip)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as forward:
        out = clip.forward()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as both:
        clip.run()
    kept, _ = _allocated(forward)
    _, peak = _allocated(both)
    del out
    assert counted.kept_bytes == pytest.approx(kept, rel=0.02)
    assert counted.peak_bytes == pytest.approx(peak, rel=0.05)


def _allocated(trace: profile) -> tuple[int, int]:
    """Bytes allocated in the end and at most, above what there was."""
    sizes = [event.nbytes() for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"]
    totals = torch.tensor(sizes).cumsum(0)
    return int(totals[-1]), int(totals.max())


def test_calls_of_restarting_videos_are_those_that_training_makes() -> None:
    network, videos = Counting(), videos_of(CONFIG)
    starts = range(0, CONFIG.window.rollout_frames - CONFIG.window.frames + 1, CONFIG.rollout.chunk)
    for start in starts:
        before = roll(network, beginning(CONFIG), videos, chunks=start // CONFIG.rollout.chunk)
        recording = record(network, before, videos, chunks=CONFIG.window_chunks)
        network.turn_to_replay()
        gradient = torch.ones_like(recording.after.latents[:, :, start:])
        if start:
            gradient[:, :, : CONFIG.window.masked_frames] = 0
        backpropagate(network, recording, gradient)
        network.turn_to_rollout()
    assert_same_calls(restarting(CONFIG, CONFIG.window), network, windows=len(starts))


def test_calls_of_videos_that_go_on_are_those_that_training_makes() -> None:
    network = Counting()
    text = videos_of(CONFIG).text
    stage = RolloutPlan(
        conditioning=SimpleNamespace(prompts=["one"], text=lambda indices: text),
        config=CONFIG.rollout,
        window=CONFIG.window,
        seed=0,
        samples=range(1),
        size=CONFIG.latent_size,
        channels=SMALL.in_channels,
        device=CPU,
        dtype=torch.float32,
    )
    source, windows = Streaming(stage), windows_in_video(CONFIG.window, CONFIG.rollout.chunk)
    assert windows > 2
    for update in range(windows):
        recording = source.roll(network, update, dropped_steps=0).recording
        network.turn_to_replay()
        backpropagate(network, recording, torch.ones(1, SMALL.in_channels, recording.num_frames, *CONFIG.latent_size))
        network.turn_to_rollout()
    assert_same_calls(streaming(CONFIG, CONFIG.window), network, windows=windows)


class Counting(WanTransformer):
    """Counts its calls by the frames in the cache, apart for rollouts, clean passes of a replay, and gradients."""

    def __init__(self) -> None:
        super().__init__(SMALL)
        self.calls = Calls()
        self._current = self.calls.rolled

    def turn_to_replay(self) -> None:
        self._current = self.calls.replayed

    def turn_to_rollout(self) -> None:
        self._current = self.calls.rolled

    def forward(self, *args: object, cache: RollingKVCache, **options: object) -> torch.Tensor:
        counter = self.calls.trained if torch.is_grad_enabled() else self._current
        counter[min(cache.num_frames, CONFIG.rollout.window - CONFIG.rollout.chunk)] += 1
        return super().forward(*args, cache=cache, **options)


def assert_same_calls(computed: Calls, network: Counting, *, windows: int) -> None:
    for name in ("rolled", "replayed", "trained"):
        made = {past: number / windows for past, number in getattr(network.calls, name).items()}
        assert dict(getattr(computed, name)) == pytest.approx(made), name


def videos_of(config: ScalingConfig) -> RolloutInputs:
    text = torch.randn(1, config.text_tokens, config.student.text_dim)
    return RolloutInputs(text=text, noise=SeededNoise(0), device=CPU, dtype=torch.float32)


def beginning(config: ScalingConfig) -> RolloutState:
    shape = (1, config.student.in_channels, *config.latent_size)
    return RolloutState(config=config.rollout, seed=0, model_id="random", shape=shape)


def test_windows_are_made_valid_clips_as_training_does_it(costs: PassCosts) -> None:
    """Restart: every start but the first, with as much warm-up as there is."""
    calls = restarting(CONFIG, CONFIG.window)
    starts = range(0, 11, 2)
    warmups = Counter(min(start, WARMUP_FRAMES) for start in starts if start)
    assert dict(calls.first_frames) == pytest.approx({frames: number / 6 for frames, number in warmups.items()})
    assert set(calls.first_frames) <= set(costs.first_frames)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_has_the_flops_of_the_code_that_trains(costs: PassCosts, checkpointing: bool) -> None:
    passes, aten = Passes(CONFIG, device=CPU, dtype=torch.float32), torch.ops.aten
    run = step_of(CONFIG, passes, "wide", Training(checkpointing))
    # PyTorch has formulas for the attention of GPUs only; that of CPUs makes the same products.
    formulas = {
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda out, q, k, v, *_, **__: (
            sdpa_backward_flop_count(out, q, k, v)
        ),
    }
    with FlopCounterMode(display=False, custom_mapping=formulas) as flops:
        run()
    calls = methods(CONFIG)["self_forcing"]
    computed = work(CONFIG, costs, calls, teacher="wide", fresh=False, checkpointing=checkpointing)
    assert computed.transformer_flops == pytest.approx(flops.get_total_flops())
    assert computed.vae_flops == 0


def test_windows_of_its_own_cost_the_critic_a_rollout_an_update(costs: PassCosts) -> None:
    for name, calls in methods(CONFIG).items():
        shared, fresh = (
            work(CONFIG, costs, calls, teacher="small", fresh=fresh, checkpointing=True) for fresh in (False, True)
        )
        rolling = [part for part in shared.generator if part.rolls or part.network is None]
        more = CONFIG.critic_updates * sum(part.flops for part in rolling)
        total = fresh.transformer_flops + fresh.vae_flops - shared.transformer_flops - shared.vae_flops
        assert total == pytest.approx(more), name


def test_traffic_is_that_of_sharded_weights(costs: PassCosts) -> None:
    calls = methods(CONFIG)["self_forcing"]
    step = work(CONFIG, costs, calls, teacher="wide", fresh=False, checkpointing=True)
    assert received_bytes(step, gpus=1, keep_gathered=False) == 0
    student, teacher = costs.student.all, costs.teachers["wide"].all
    # Three chunks: twelve steps and two clean passes, the text once; two clean passes again; gathered in bfloat16.
    without_gradient = (12 + 2 + 1 + 2 + 1) * 2 * student + 2 * 2 * teacher
    # Three chunks and two critic updates: gathered twice, and gradients in float32.
    with_gradient = (3 + 2) * (2 * 2 + 4) * student
    expected = (without_gradient + with_gradient) * 3 / 4
    assert received_bytes(step, gpus=4, keep_gathered=False) == pytest.approx(expected)
    kept = expected - (12 + 2 - 1) * 2 * student * 3 / 4
    assert received_bytes(step, gpus=4, keep_gathered=True) == pytest.approx(kept)


def test_what_stays_is_shared_out_and_the_largest_phase_counts(costs: PassCosts) -> None:
    alone, four = (memory(CONFIG, costs, gpus=gpus, teacher="wide", checkpointing=True) for gpus in (1, 4))
    for name, amount in alone.stays.items():
        assert four.stays[name] == pytest.approx(amount if "whole" in name else amount / 4), name
    student = costs.student.all
    assert alone.stays["student and critic, float32"] == 2 * 4 * student
    assert alone.stays["their AdamW states"] == 2 * 8 * student
    assert alone.opening == four.opening == max(4 * student, 2 * costs.teachers["wide"].all), "whole in every process"
    assert four.peak == pytest.approx(sum(four.stays.values()) + max(four.phases.values()))


def test_the_cache_of_the_published_model_is_the_documented_one() -> None:
    assert cache_bytes(ScalingConfig(), 1) == pytest.approx(287.5e6, rel=1e-3)
    with META:
        parameters = sum(weight.numel() for weight in WanTransformer(WAN21_T2V_1_3B).parameters())
    assert parameters == 1_418_996_800


def test_autocast_is_counted_as_cuda_does_it() -> None:
    """Against PyTorch's own autocast, on tensors that only say that they are on a GPU."""
    counted = count(Passes(CONFIG, device=META, dtype=torch.bfloat16).clip(SMALL, Training(checkpointing=False)))
    frames = CONFIG.window.frames
    with FakeTensorMode(), torch.device("cuda"), cuda_autocast(torch.bfloat16):
        network = WanTransformer(SMALL, attention=flash_attention)
        network = in_dtype(network, torch.bfloat16)
        fuse_norms(network)
        x = torch.empty(1, SMALL.in_channels, frames, *CONFIG.latent_size)
        inputs = (x, torch.empty(1, frames), torch.empty(1, CONFIG.text_tokens, SMALL.text_dim))
        network(*inputs)
        with LiveBytes() as live:
            out = network(*inputs)
    assert out.requires_grad and counted.kept_bytes == live.now


@contextmanager
def cuda_autocast(dtype: torch.dtype) -> Iterator[None]:
    """As `torch.autocast("cuda")`, which refuses where there is no GPU."""
    torch.set_autocast_dtype("cuda", dtype)
    torch.set_autocast_enabled("cuda", True)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.clear_autocast_cache()


def in_dtype(network: WanTransformer, dtype: torch.dtype) -> WanTransformer:
    """Module.to does not know tensors that only say what they are."""
    for module in network.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(weight.detach().to(dtype)))
    return network


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["window.frames=20"], "window.frames is 20; it must be a multiple of the chunk, 3"),
        (["window.rollout_frames=12"], "window.rollout_frames is 12, shorter than a window of 21"),
        (["height=500"], "height is 500; it must be a positive multiple of 16"),
        (["machine.link_gbs=0"], "link_gbs is 0"),
        (["hieght=480"], "hieght"),
        (["batch"], "'batch' is no override"),
    ],
)
def test_impossible_settings_are_refused_in_a_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        read_config(ScalingConfig(), words)


def test_a_device_that_is_not_there_ends_in_a_sentence(caplog: pytest.LogCaptureFixture) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert main(["--measure", "cuda"]) == 2
    assert "sees no such device here" in caplog.text


def test_measuring_compares_every_pass_with_what_was_computed(costs: PassCosts) -> None:
    text = measurement(CONFIG, costs, CPU, checkpointing=True, repeats=1)
    ratios = [float(line.split("|")[5]) for line in text.splitlines()[4:]]
    assert len(ratios) == 7 and min(ratios) > 0
    assert "on a CPU" in text and "step of 1 + 2 updates" in text


WAN_RUNS = {
    "causal_init": causal_init.CausalInitStageConfig,
    "self_forcing": self_forcing.SelfForcingStageConfig,
    "sfpp": sfpp.SfppStageConfig,
}


@pytest.mark.endurance
def test_the_published_configurations_fit_the_gpus_that_they_name() -> None:
    """By what is counted: a video's pass grows with the videos that are taken at once."""
    full = ScalingConfig()
    costs = count_passes(full)
    for stage, kind in WAN_RUNS.items():
        path = CONFIGS / f"{stage}.yaml"
        assert "for 8 GPUs of 80 GB" in path.read_text(encoding="utf-8"), stage
        config = load_config(kind, path)
        videos, left = divmod(config.batch, 8 * config.accumulate)
        assert videos and not left, f"{stage}: 8 processes share out a batch in equal parts"
        checkpointing = config.run.checkpoint_activations
        needed = memory(full, costs, gpus=8, teacher="1.3B teacher", checkpointing=checkpointing)
        largest = max(needed.phases.values())
        if stage == "causal_init":
            largest = max(costs.causal_init[checkpointing].peak_bytes, needed.phases["watching"])
        assert sum(needed.stays.values()) + videos * largest < 80e9, stage


@pytest.mark.endurance
def test_the_document_quotes_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    printed = capsys.readouterr().out
    document = DOCUMENT.read_text(encoding="utf-8")
    for section in printed.split("## ")[1:]:
        title, _, table = section.partition("\n")
        assert table.strip() in document, f"the table of {title!r} is another one now: run python -m training.scaling"
    figures = set(re.findall(r"[\d.,]+\d|\d", printed))
    prose = "\n".join(line for line in document.splitlines() if not line.startswith("|"))
    for number in re.findall(r"([\d.,]*\d) (?:GB|TB|PFLOP|TFLOP|GPU-days)\b(?!/s)", prose):
        assert number in figures, f"the text says {number}, which the command does not print"
