"""Print what a training step takes at full size: `python -m training.scaling [key=value ...]`; see docs/scaling.md."""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial

from omegaconf import OmegaConf
from torch import nn

from sfpp_core.rollout.kv_cache import RollingKVCache
from sfpp_core.wan.config import WanConfig, WanVAEConfig
from sfpp_core.wan.transformer import WanTransformer
from sfpp_core.wan.vae import WanVAE

from ..config import ConfigError, as_dataclass, core_refusals, with_words
from ..evaluation.report import in_markdown
from ..self_forcing.rollouts import shared_frames, windows_in_video
from ..self_forcing.windows import WindowConfig
from .counting import META, MODELS, Cost, ScalingConfig, count_passes

GUIDED_PASSES = 2
"""Of the teacher for a score: with the prompt and with the negative prompt."""
Calls = Counter[tuple[str, int]]
"""Numbers of calls by kind and by the latent frames in the cache; means over windows are fractions."""


def window_calls(config: ScalingConfig, start: int, *, known: int | None = None) -> Calls:
    """Count the calls for the window at latent frame `start`, until its gradient is there.

    A chunk is denoised, then passed once more, clean, into the cache if another one follows. The gradient plays the
    window's chunks again, each with a gradient, and the clean passes between them; chunks that are re-encoded as a
    whole have none. known: latent frames that are there already of a video that goes on, and will after the window;
    None for one of the window's own, rolled from its beginning.
    """
    size, calls = config.rollout.chunk, Calls()
    end = (start + config.window.frames) // size
    played = range((start if known is None else known) // size, end)
    encoded = config.window.masked_frames // size if start and known is None else 0

    def past(chunk: int) -> int:
        return min(chunk * size, config.most_past)

    for chunk in range(end) if known is None else played:
        steps = config.rollout.timesteps if chunk else config.rollout.first_chunk_timesteps
        calls["rolled", past(chunk)] += len(steps) + (known is not None or chunk + 1 < end)
    calls.update(("replayed", past(chunk)) for chunk in played[:-1])
    calls.update(("trained", past(chunk)) for chunk in played[encoded:])
    # What comes before a window of its own is another rollout, which makes the text's keys and values as well.
    calls["text", 0] = 2 if start and known is None else 1
    if start:
        calls["first frames", 0] = 1
    return calls


def restarting(config: ScalingConfig, window: WindowConfig) -> Calls:
    """Return mean calls where every window's video is rolled from its beginning; with N = K that is Self-Forcing."""
    starts = range(0, window.rollout_frames - window.frames + 1, config.rollout.chunk)
    return _mean(config, window, [window_calls(config, start) for start in starts])


def streaming(config: ScalingConfig, window: WindowConfig) -> Calls:
    """Return mean calls where videos go on by a window at a time and begin again once the next would be too long."""
    shared, number = shared_frames(window, config.rollout.chunk), windows_in_video(window, config.rollout.chunk)
    starts = [index * (window.frames - shared) for index in range(number)]
    windows = [window_calls(config, start, known=start + shared if start else 0) for start in starts]
    return _mean(config, window, windows)


def _mean(config: ScalingConfig, window: WindowConfig, windows: Sequence[Calls]) -> Calls:
    """Average the windows' calls, with as many beginnings of other videos as the configuration says."""
    mean, first = Calls(), window.first_window_probability
    shares = [(first, window_calls(config, 0)), *(((1 - first) / len(windows), calls) for calls in windows)]
    for share, calls in shares:
        for call, number in calls.items():
            mean[call] += share * number
    return mean


def methods(config: ScalingConfig) -> dict[str, Calls]:
    """Return mean calls of a window by method."""
    return {
        "self_forcing": restarting(config, replace(config.window, rollout_frames=config.window.frames)),
        "sfpp, restart": restarting(config, config.window),
        "sfpp, streaming": streaming(config, config.window),
    }


def step_flops(config: ScalingConfig, costs: dict[str, Cost], calls: Calls) -> dict[str, float]:
    """Return the FLOPs of one step of one video, by part and in all: one update of the student, some of the critic.

    These either all judge the student's window (shared) or roll a window of their own each, as in Self-Forcing (fresh).
    """

    def total(kind: str, flops: Callable[[int], float]) -> float:
        return sum(number * flops(frames) for (called, frames), number in calls.items() if called == kind)

    def chunk(past: int, suffix: str = "") -> float:
        # Attention to the past is linear in it; nothing else depends on it.
        alone, full = (costs[f"chunk, {name} past{suffix}"].flops for name in ("no", "full"))
        return alone + (past / config.most_past * (full - alone) if past else 0.0)

    critic, text = costs["critic, trained"].flops, costs["text"].flops
    rolling = {
        "rollout": total("rolled", chunk) + calls["text", 0] * text,
        "first frames": calls["first frames", 0] * costs["first frames"].flops,
    }
    scores = {f"{name} teacher": GUIDED_PASSES * costs[f"teacher, {name} teacher"].flops for name in config.teachers}
    student = rolling | {
        "critic's score": costs["critic"].flops,
        "clean passes again": total("replayed", chunk) + text,
        "chunks, forward and backward": total("trained", partial(chunk, suffix=", trained")),
    }
    updates = {"shared": critic, "fresh": critic + sum(rolling.values())}
    parts = student | {f"teacher's score, {teacher}": score for teacher, score in scores.items()}
    parts |= {f"one update of the critic, {windows} window": update for windows, update in updates.items()}
    for teacher, score in scores.items():
        for windows, update in updates.items():
            name = f"step of 1 + {config.critic_updates} updates, {windows}, {teacher}"
            parts[name] = sum(student.values()) + score + config.critic_updates * update
    return parts


def memory(
    config: ScalingConfig, costs: dict[str, Cost], *, gpus: int, teacher: str
) -> tuple[dict[str, float], dict[str, float]]:
    """Return bytes on one of `gpus` GPUs under FSDP2: what stays, and what each phase of a step has besides.

    Of what stays each GPU has a share. Rollouts keep the student's weights gathered; watching keeps the critic's too,
    with the student's own put aside for its average. A single GPU shards nothing, but autocast keeps bfloat16
    copies of trained weights.
    """
    model, judge = config.student, config.teachers[teacher]
    student, sharded = num_parameters(WanTransformer, model), gpus > 1
    cache = RollingKVCache.estimate_nbytes(model, config.rollout, **config.cache_sizes)
    text = 2 * 2 * model.num_layers * config.text_tokens * model.dim
    rolling = cache + text + costs["chunk, full past"].peak_bytes
    # A block's gradients are summed over GPUs in float32.
    trained = 2 * (_gathered(model) if sharded else student) + 4 * _block(model)
    stays = {
        "student and critic, float32": 2 * 4 * student / gpus,
        # First and second moment; PyTorch's AdamW keeps the first with a beta1 of 0 too.
        "their AdamW states": 2 * 2 * 4 * student / gpus,
        "gradients of the one that learns": 4 * student / gpus,
        "moving average of the student": 4 * student / gpus,
        "teacher, bfloat16": 2 * num_parameters(WanTransformer, judge) / gpus,
        "autoencoder, float32, whole": 4 * num_parameters(WanVAE, config.vae),
    }
    phases = {
        "rollout": rolling + 2 * student,
        "first frames": costs["first frames"].peak_bytes,
        "teacher's score": costs[f"teacher, {teacher} teacher"].peak_bytes + (2 * _gathered(judge) if sharded else 0),
        "student's gradient": cache + costs["chunk, full past, trained"].peak_bytes + trained,
        "critic's gradient": costs["critic, trained"].peak_bytes + trained,
        # AdamW's update of all weights at once has a temporary of their size.
        "optimiser": 4 * student / gpus,
        "watching": max(rolling, costs["watching"].peak_bytes) + (4 / gpus + (4 if sharded else 2)) * student,
    }
    return stays, phases


@cache
def num_parameters(network: type[nn.Module], config: WanConfig | WanVAEConfig) -> int:
    """Count the weights of a network."""
    with META:
        return sum(weight.numel() for weight in network(config).parameters())


def _gathered(model: WanConfig) -> int:
    """Count the weights of a sharded network that are whole at a time: those in no block, and of two blocks."""
    return num_parameters(WanTransformer, replace(model, num_layers=2))


def _block(model: WanConfig) -> int:
    """Count the weights of a transformer block."""
    return _gathered(model) - num_parameters(WanTransformer, replace(model, num_layers=1))


def report(config: ScalingConfig, costs: dict[str, Cost]) -> str:
    """Write the tables of docs/scaling.md, each under its heading."""
    passes = [[name, _digits(cost.flops / 1e12), _digits(cost.peak_bytes / 1e9)] for name, cost in costs.items()]
    steps = {name: step_flops(config, costs, calls) for name, calls in methods(config).items()}
    parts = [[part, *(_digits(step[part] / 1e15) for step in steps.values())] for part in next(iter(steps.values()))]
    columns = {
        f"{gpus} GPU{'s' if gpus > 1 else ''}, {teacher} teacher": memory(config, costs, gpus=gpus, teacher=teacher)
        for teacher in config.teachers
        for gpus in config.gpus
    }
    stays, phases = zip(*columns.values(), strict=True)
    rows = [[name, *(_digits(each[name] / 1e9) for each in stays)] for name in stays[0]]
    rows += [[f"phase: {name}", *(_digits(each[name] / 1e9) for each in phases)] for name in phases[0]]
    peaks = [sum(kept.values()) + max(comes.values()) for kept, comes in columns.values()]
    rows.append(["what stays + the largest phase", *(_digits(peak / 1e9) for peak in peaks)])
    sections = {
        "Calls": in_markdown(["call", "TFLOP", "GB at its peak"], passes),
        "One step of one video, PFLOP": in_markdown(["", *steps], parts),
        "Memory of one GPU, GB": in_markdown(["", *columns], rows),
    }
    return "\n".join(f"## {name}\n\n{body}\n" for name, body in sections.items())


def _digits(number: float) -> str:
    """Three digits or so: 0.15, 93.2, 1,678."""
    return f"{number:.2f}" if number < 10 else f"{number:.1f}" if number < 1000 else f"{number:,.0f}"


def read_config(base: ScalingConfig, overrides: Sequence[str]) -> ScalingConfig:
    """Return a configuration with `key=value` overrides on top.

    Raises:
        ConfigError: a word that cannot be read, a key that does not exist or a value that is refused.
    """
    config = with_words(OmegaConf.structured(base), overrides, example="height=480")
    with core_refusals():
        return as_dataclass(config, named="the overrides")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables. Mistakes end in a sentence, not a traceback."""
    parser = argparse.ArgumentParser(prog="python -m training.scaling", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. height=720 width=1280 gpus=[16]")
    parser.add_argument("--student", choices=MODELS, default="1.3B", help="student and critic (default 1.3B)")
    options = parser.parse_intermixed_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        config = read_config(ScalingConfig(student=MODELS[options.student]), options.overrides)
    except ConfigError as error:
        logging.error("%s", error)
        return 2
    sys.stdout.write(report(config, count_passes(config)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
