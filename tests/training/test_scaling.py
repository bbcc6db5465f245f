"""What a step takes at full size is counted right: FLOPs, bytes and calls, and the documentation quotes them."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.flow import SeededNoise
from sfpp_core.rollout.kv_cache import RollingKVCache
from sfpp_core.rollout.state import RolloutState
from sfpp_core.wan.config import WAN21, WanConfig
from sfpp_core.wan.transformer import WanTransformer
from training.config import ConfigError, load_config
from training.engine.distributed import recompute_blocks
from training.scaling.__main__ import (
    Calls,
    main,
    memory,
    methods,
    read_config,
    report,
    restarting,
    step_flops,
    streaming,
)
from training.scaling.counting import (
    META,
    Cost,
    ScalingConfig,
    as_on_cuda,
    count_flops,
    count_passes,
    count_transformers,
    flash_attention,
    peak_bytes,
)
from training.self_forcing.dmd import DMDConfig, critic_loss, judge
from training.self_forcing.rollouts import (
    RolloutInputs,
    RolloutPlan,
    Streaming,
    backpropagate,
    record,
    roll,
    windows_in_video,
)
from training.self_forcing.windows import WindowConfig
from training.stages import causal_init, self_forcing, sfpp

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
SMALL = WanConfig(dim=32, ffn_dim=48, num_heads=2, num_layers=4, text_dim=24)
CONFIG = ScalingConfig(
    student=SMALL,
    teachers={"wide": replace(SMALL, dim=64, num_layers=3)},
    rollout=RolloutConfig(chunk=2, window=6),
    window=WindowConfig(frames=6, rollout_frames=16, masked_frames=3),
    height=32,
    width=48,
    text_tokens=5,
    critic_updates=2,
    gpus=(1, 4),
)
SIZE = WAN21.latent_size(CONFIG.height, CONFIG.width)
PER_FRAME = WAN21.tokens_per_frame(*SIZE)


@pytest.fixture(scope="module")
def costs() -> dict[str, Cost]:
    """Of a small size; what the autoencoder takes plays no part in the tests that use it."""
    return count_transformers(CONFIG) | {"first frames": Cost(1e6, 1e6), "watching": Cost(1e6, 1e6)}


@pytest.fixture(scope="module")
def full_costs() -> dict[str, Cost]:
    """Of the published size."""
    return count_passes(ScalingConfig())


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


def test_flops_of_a_clip_are_those_of_its_products(costs: dict[str, Cost]) -> None:
    assert costs["critic"].flops == clip_flops(SMALL, CONFIG.window.frames)
    wide = CONFIG.teachers["wide"]
    assert costs["teacher, wide teacher"].flops == clip_flops(wide, CONFIG.window.frames)


def test_backward_makes_each_product_of_a_layer_twice_and_the_scores_of_attention_once_more() -> None:
    x, layer = torch.empty(7, 5, device=META, requires_grad=True), torch.nn.Linear(5, 3, device=META)
    assert count_flops(lambda: layer(x), trains=True) == 3 * 2 * 7 * 5 * 3
    queries, keys = (torch.empty(1, length, 2, 8, device=META, requires_grad=True) for length in (6, 9))
    product = 2 * 2 * 6 * 9 * 8
    assert count_flops(lambda: flash_attention(queries, keys, keys)) == 2 * product
    # dV, dP, dQ, dK, and the scores.
    assert count_flops(lambda: flash_attention(queries, keys, keys), trains=True) == 7 * product


def test_checkpointing_computes_the_blocks_once_more_and_keeps_a_fraction(costs: dict[str, Cost]) -> None:
    flops, peaks = [], []
    for checkpointing in (False, True):
        with META:
            network = as_on_cuda(WanTransformer(SMALL))
        if checkpointing:
            recompute_blocks(network)
        flops.append(count_flops(clip(network), trains=True))
        peaks.append(peak_bytes(clip(network), trains=True))
    assert flops[1] - flops[0] == block_flops(SMALL, CONFIG.window.frames)
    assert peaks[1] < 0.6 * peaks[0]
    # Counted from networks of fewer layers than these four.
    assert costs["critic, trained"] == Cost(flops[1], peaks[1])


def clip(network: WanTransformer, device: torch.device = META) -> partial[torch.Tensor]:
    frames = CONFIG.window.frames
    x = torch.randn(1, SMALL.in_channels, frames, *SIZE, device=device)
    text = torch.randn(1, CONFIG.text_tokens, SMALL.text_dim, device=device)
    return partial(network, x, torch.full((1, frames), 500.0, device=device), text)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_counted_bytes_are_those_that_the_allocator_hands_out(checkpointing: bool) -> None:
    """On real tensors, against PyTorch's own trace of its CPU allocator."""
    network = WanTransformer(SMALL)
    if checkpointing:
        recompute_blocks(network)
    for weight in network.parameters():
        weight.register_post_accumulate_grad_hook(lambda weight: setattr(weight, "grad", None))
    forward = clip(network, CPU)
    counted = peak_bytes(forward, trains=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        out = forward()
        out.backward(torch.ones_like(out))
    sizes = [event.nbytes() for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert counted == pytest.approx(torch.tensor(sizes).cumsum(0).max().item(), rel=0.05)


def test_calls_of_restarting_videos_are_those_that_training_makes() -> None:
    network, videos = Counting(), videos_of(CONFIG)
    starts = range(0, CONFIG.window.rollout_frames - CONFIG.window.frames + 1, CONFIG.rollout.chunk)
    for start in starts:
        before = roll(network, beginning(CONFIG), videos, chunks=start // CONFIG.rollout.chunk)
        recording = record(network, before, videos, chunks=CONFIG.window.frames // CONFIG.rollout.chunk)
        gradient = torch.ones_like(recording.after.latents[:, :, start:])
        if start:
            gradient[:, :, : CONFIG.window.masked_frames] = 0
        network.replay(recording, gradient)
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
        size=SIZE,
        channels=SMALL.in_channels,
        device=CPU,
        dtype=torch.float32,
    )
    source, windows = Streaming(stage), windows_in_video(CONFIG.window, CONFIG.rollout.chunk)
    assert windows > 2
    for update in range(windows):
        recording = source.roll(network, update, dropped_steps=0).recording
        network.replay(recording, torch.ones(1, SMALL.in_channels, recording.num_frames, *SIZE))
    assert_same_calls(streaming(CONFIG, CONFIG.window), network, windows=windows)


class Counting(WanTransformer):
    """Counts its calls by the frames in the cache, apart for rollouts, clean passes of a replay, and gradients."""

    def __init__(self) -> None:
        super().__init__(SMALL)
        self.calls = Calls()
        self._kind = "rolled"

    def replay(self, recording: object, gradient: torch.Tensor) -> None:
        self._kind = "replayed"
        backpropagate(self, recording, gradient)
        self._kind = "rolled"

    def forward(self, *args: object, cache: RollingKVCache, **options: object) -> torch.Tensor:
        kind = "trained" if torch.is_grad_enabled() else self._kind
        self.calls[kind, min(cache.num_frames, CONFIG.most_past)] += 1
        return super().forward(*args, cache=cache, **options)


def assert_same_calls(computed: Calls, network: Counting, *, windows: int) -> None:
    made = {call: number / windows for call, number in network.calls.items()}
    others = ("text", "first frames")
    assert {call: number for call, number in computed.items() if call[0] not in others} == pytest.approx(made)
    assert computed["first frames", 0] == pytest.approx((windows - 1) / windows), "all but a video's own beginning"


def videos_of(config: ScalingConfig) -> RolloutInputs:
    text = torch.randn(1, config.text_tokens, config.student.text_dim)
    return RolloutInputs(text=text, noise=SeededNoise(0), device=CPU, dtype=torch.float32)


def beginning(config: ScalingConfig) -> RolloutState:
    shape = (1, config.student.in_channels, *SIZE)
    return RolloutState(config=config.rollout, seed=0, model_id="random", shape=shape)


def test_a_step_has_the_flops_of_the_code_that_trains(costs: dict[str, Cost]) -> None:
    """Self-Forcing with a shared window and activation checkpointing, on a CPU."""
    (student, critic), (teacher,) = (
        [with_a_head(model) for _ in range(number)] for model, number in ((SMALL, 2), (CONFIG.teachers["wide"], 1))
    )
    teacher.requires_grad_(False)
    for network in (student, critic):
        recompute_blocks(network)
    videos, frames, sigma = videos_of(CONFIG), CONFIG.window.frames, torch.tensor([0.5], dtype=torch.float64)
    noise = torch.randn(1, SMALL.in_channels, frames, *SIZE)
    aten = torch.ops.aten
    # PyTorch has formulas for the attention of GPUs only; that of CPUs makes the same products.
    formulas = {
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda out, q, k, v, *_, **__: (
            sdpa_backward_flop_count(out, q, k, v)
        ),
    }
    judges = {"teacher": teacher, "critic": critic, "text": videos.text, "negative": videos.text}
    mask = torch.ones(1, 1, frames, 1, 1, dtype=torch.bool)
    with FlopCounterMode(display=False, custom_mapping=formulas) as flops:
        before = roll(student, beginning(CONFIG), videos, chunks=0)
        recording = record(student, before, videos, chunks=frames // CONFIG.rollout.chunk)
        x0 = recording.after.latents
        backpropagate(student, recording, judge(x0, noise, sigma, **judges, config=DMDConfig()))
        for _ in range(CONFIG.critic_updates):
            critic_loss(critic, x0, noise, sigma, videos.text, mask).backward()
    computed = step_flops(CONFIG, costs, methods(CONFIG)["self_forcing"])
    assert computed["step of 1 + 2 updates, shared, wide teacher"] == pytest.approx(flops.get_total_flops())


def with_a_head(model: WanConfig) -> WanTransformer:
    """A fresh head predicts nothing, so that scores would agree and chunks without a gradient be passed over."""
    network = WanTransformer(model)
    torch.nn.init.xavier_uniform_(network.head.head.weight)
    return network


def test_windows_of_its_own_cost_the_critic_a_rollout_an_update(costs: dict[str, Cost]) -> None:
    for calls in methods(CONFIG).values():
        step = step_flops(CONFIG, costs, calls)
        shared, fresh = (step[f"step of 1 + 2 updates, {windows}, wide teacher"] for windows in ("shared", "fresh"))
        assert fresh - shared == pytest.approx(2 * (step["rollout"] + step["first frames"]))


def test_what_stays_is_shared_out_and_the_cache_is_the_real_ones_size(costs: dict[str, Cost]) -> None:
    (alone, phases), (four, _) = (memory(CONFIG, costs, gpus=gpus, teacher="wide") for gpus in (1, 4))
    for name, amount in alone.items():
        assert four[name] == pytest.approx(amount if "whole" in name else amount / 4), name
    student = sum(weight.numel() for weight in WanTransformer(SMALL).parameters())
    # Weights, AdamW's two moments, gradients and average in float32.
    assert sum(list(alone.values())[:4]) == 4 * student * (2 + 4 + 1 + 1)
    sizes = {"batch": 1, "tokens_per_frame": PER_FRAME, "dtype": torch.bfloat16, "device": CPU}
    cache = RollingKVCache(SMALL, CONFIG.rollout, **sizes)
    cache.commit(CONFIG.rollout.window)
    text = WanTransformer(SMALL).bfloat16().embed_text(torch.zeros(1, CONFIG.text_tokens, SMALL.text_dim).bfloat16())
    held = cache.snapshot().nbytes + sum(tensor.nbytes for tensor in (*text.keys, *text.values))
    assert phases["rollout"] == held + costs["chunk, full past"].peak_bytes + 2 * student


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["window.frames=20"], "window.frames is 20; it must be a multiple of the chunk, 3"),
        (["window.rollout_frames=12"], "window.rollout_frames is 12, shorter than a window of 21"),
        (["height=500"], "height is 500; it must be a positive multiple of 16"),
        (["gpus=[]"], "gpus is (); name counts of at least 1"),
        (["hieght=480"], "hieght"),
        (["height"], "'height' is no override"),
    ],
)
def test_impossible_settings_are_refused_in_a_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        read_config(ScalingConfig(), words)


def test_the_command_ends_in_a_sentence_where_nothing_can_be_counted(caplog: pytest.LogCaptureFixture) -> None:
    assert main(["height=500"]) == 2
    assert "height is 500" in caplog.text


@pytest.mark.endurance
@pytest.mark.parametrize(
    ("stage", "kind"), [("causal_init", causal_init), ("self_forcing", self_forcing), ("sfpp", sfpp)]
)
def test_the_published_configurations_fit_the_gpus_that_they_name(
    stage: str, kind: object, full_costs: dict[str, Cost]
) -> None:
    """By what is counted: a call takes more with the videos that are taken at once."""
    path = ROOT / "training" / "configs" / "wan" / f"{stage}.yaml"
    assert "for 8 GPUs of 80 GB" in path.read_text(encoding="utf-8")
    config, full = load_config(kind.CONFIG, path), ScalingConfig()
    assert config.run.checkpoint_activations == full.checkpointing
    videos, left = divmod(config.batch, 8 * config.accumulate)
    assert videos and not left, "8 processes share out a batch in equal parts"
    stays, phases = memory(full, full_costs, gpus=8, teacher="1.3B")
    largest = max(phases.values())
    if stage == "causal_init":
        largest = max(full_costs["causal_init, trained"].peak_bytes, phases["watching"])
    assert sum(stays.values()) + videos * largest < 80e9


@pytest.mark.endurance
def test_the_document_quotes_what_the_command_prints(full_costs: dict[str, Cost]) -> None:
    printed = report(ScalingConfig(), full_costs)
    document = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    for section in printed.split("## ")[1:]:
        title, _, table = section.partition("\n")
        assert table.strip() in document, f"the table of {title!r} is another one now: run python -m training.scaling"
    figures = set(re.findall(r"[\d.,]+\d|\d", printed))
    prose = "\n".join(line for line in document.splitlines() if not line.startswith("|"))
    quoted = re.findall(r"([\d.,]*\d) (?:GB|PFLOP|TFLOP)\b", prose)
    assert len(quoted) > 3 and not [number for number in quoted if number not in figures]
